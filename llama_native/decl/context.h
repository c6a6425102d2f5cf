/* Contexts: parameters, facts, outputs. Everything that can fail goes through shim.h. */

typedef bool (*ggml_abort_callback)(void *data);

struct llama_context_params {
    uint32_t n_ctx;
    uint32_t n_batch;
    uint32_t n_ubatch;
    uint32_t n_seq_max;
    uint32_t n_outputs_max;
    int32_t n_threads;
    int32_t n_threads_batch;
    int rope_scaling_type;
    int pooling_type;
    int attention_type;
    int flash_attn_type;
    float rope_freq_base;
    float rope_freq_scale;
    float yarn_ext_factor;
    float yarn_attn_factor;
    float yarn_beta_fast;
    float yarn_beta_slow;
    uint32_t yarn_orig_ctx;
    int type_k;
    int type_v;
    ggml_abort_callback abort_callback;
    void *abort_callback_data;
    bool embeddings;
    bool offload_kqv;
    bool no_perf;
    bool op_offload;
    bool swa_full;
    bool kv_unified;
    ...;
};

struct llama_perf_context_data {
    double t_start_ms;
    double t_load_ms;
    double t_p_eval_ms;
    double t_eval_ms;
    int32_t n_p_eval;
    int32_t n_eval;
    int32_t n_reused;
    ...;
};

struct llama_context_params llama_context_default_params(void);
void llama_free(struct llama_context *ctx);

uint32_t llama_n_ctx(const struct llama_context *ctx);
uint32_t llama_n_ctx_seq(const struct llama_context *ctx);
uint32_t llama_n_batch(const struct llama_context *ctx);
uint32_t llama_n_ubatch(const struct llama_context *ctx);
uint32_t llama_n_seq_max(const struct llama_context *ctx);
int llama_pooling_type(const struct llama_context *ctx);
bool llama_get_causal_attn(const struct llama_context *ctx);
void llama_set_causal_attn(struct llama_context *ctx, bool causal_attn);
void llama_set_embeddings(struct llama_context *ctx, bool embeddings);
void llama_set_n_threads(struct llama_context *ctx, int32_t n_threads, int32_t n_threads_batch);
int32_t llama_n_threads(struct llama_context *ctx);
int32_t llama_n_threads_batch(struct llama_context *ctx);
struct llama_perf_context_data llama_perf_context(const struct llama_context *ctx);
void llama_perf_context_reset(struct llama_context *ctx);
void llama_detach_threadpool(struct llama_context *ctx);
void llama_attach_threadpool(struct llama_context *ctx, ggml_threadpool_t pool, ggml_threadpool_t pool_batch);
