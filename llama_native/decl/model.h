/* Loading a model and reading what it says about itself. */

typedef bool (*llama_progress_callback)(float progress, void *user_data);

struct llama_model_kv_override {
    int tag;
    char key[128];
    union {
        int64_t val_i64;
        double val_f64;
        bool val_bool;
        char val_str[128];
    };
    ...;
};

struct llama_model_params {
    ggml_backend_dev_t *devices;
    int32_t n_gpu_layers;
    int split_mode;
    int load_mode;
    int32_t main_gpu;
    const float *tensor_split;
    llama_progress_callback progress_callback;
    void *progress_callback_user_data;
    const struct llama_model_kv_override *kv_overrides;
    bool vocab_only;
    bool check_tensors;
    bool use_extra_bufts;
    ...;
};

struct llama_model_params llama_model_default_params(void);
void llama_model_free(struct llama_model *model);

const struct llama_vocab *llama_model_get_vocab(const struct llama_model *model);
int llama_model_rope_type(const struct llama_model *model);
int32_t llama_model_n_ctx_train(const struct llama_model *model);
int32_t llama_model_n_embd(const struct llama_model *model);
int32_t llama_model_n_embd_out(const struct llama_model *model);
int32_t llama_model_n_layer(const struct llama_model *model);
int32_t llama_model_n_head(const struct llama_model *model);
int32_t llama_model_n_head_kv(const struct llama_model *model);
int32_t llama_model_n_swa(const struct llama_model *model);
uint32_t llama_model_n_cls_out(const struct llama_model *model);
int32_t llama_model_meta_count(const struct llama_model *model);
int32_t llama_model_meta_key_by_index(const struct llama_model *model, int32_t i, char *buf, size_t buf_size);
int32_t llama_model_meta_val_str_by_index(const struct llama_model *model, int32_t i, char *buf, size_t buf_size);
int32_t llama_model_desc(const struct llama_model *model, char *buf, size_t buf_size);
int llama_model_ftype(const struct llama_model *model);
const char *llama_ftype_name(int ftype);
uint64_t llama_model_size(const struct llama_model *model);
uint64_t llama_model_n_params(const struct llama_model *model);
const char *llama_model_chat_template(const struct llama_model *model, const char *name);
bool llama_model_has_encoder(const struct llama_model *model);
bool llama_model_has_decoder(const struct llama_model *model);
llama_token llama_model_decoder_start_token(const struct llama_model *model);
bool llama_model_is_recurrent(const struct llama_model *model);
bool llama_model_is_hybrid(const struct llama_model *model);
bool llama_model_is_diffusion(const struct llama_model *model);
