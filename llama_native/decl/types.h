/* Opaque objects and plain types that several topics share. */

struct llama_vocab;
struct llama_model;
struct llama_context;
struct llama_sampler;
struct llama_adapter_lora;
struct llama_memory_i;
struct ggml_threadpool;
struct ggml_backend_device;
struct ggml_backend_reg;

typedef struct llama_memory_i *llama_memory_t;
typedef struct ggml_threadpool *ggml_threadpool_t;
typedef struct ggml_backend_device *ggml_backend_dev_t;
typedef struct ggml_backend_reg *ggml_backend_reg_t;

typedef int32_t llama_pos;
typedef int32_t llama_token;
typedef int32_t llama_seq_id;

#define LLAMA_TOKEN_NULL ...
#define LLAMA_DEFAULT_SEED ...
