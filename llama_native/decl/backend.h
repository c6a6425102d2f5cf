/* Backends, devices and facts about the library build. */

void llama_backend_init(void);
const char *llama_version(void);
const char *llama_print_system_info(void);
size_t llama_max_devices(void);
size_t llama_max_parallel_sequences(void);
bool llama_supports_mmap(void);
bool llama_supports_mlock(void);
bool llama_supports_gpu_offload(void);
bool llama_supports_rpc(void);

void ggml_backend_load_all(void);
ggml_backend_reg_t ggml_backend_load(const char *path);
void ggml_backend_register(ggml_backend_reg_t reg);
ggml_backend_reg_t ggml_backend_reg_by_name(const char *name);
void *ggml_backend_reg_get_proc_address(ggml_backend_reg_t reg, const char *name);
size_t ggml_backend_reg_dev_count(ggml_backend_reg_t reg);
ggml_backend_dev_t ggml_backend_reg_dev_get(ggml_backend_reg_t reg, size_t index);
size_t ggml_backend_dev_count(void);
ggml_backend_dev_t ggml_backend_dev_get(size_t index);
ggml_backend_dev_t ggml_backend_dev_by_name(const char *name);
const char *ggml_backend_dev_name(ggml_backend_dev_t device);
const char *ggml_backend_dev_description(ggml_backend_dev_t device);
int ggml_backend_dev_type(ggml_backend_dev_t device);
void ggml_backend_dev_memory(ggml_backend_dev_t device, size_t *free, size_t *total);

#define RPC_PROTO_MAJOR_VERSION ...
#define RPC_PROTO_MINOR_VERSION ...

const char *ggml_version(void);
const char *ggml_commit(void);

int64_t ggml_blck_size(int type);
size_t ggml_type_size(int type);
const char *ggml_type_name(int type);
bool ggml_is_quantized(int type);
#define GGML_TYPE_COUNT ...
