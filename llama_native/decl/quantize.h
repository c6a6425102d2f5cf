/* Quantizing a GGUF file into another one. The call itself goes through shim.h. */

typedef struct llama_model_quantize_params {
    int32_t nthread;
    int ftype;
    int output_tensor_type;
    int token_embedding_type;
    bool allow_requantize;
    bool quantize_output_tensor;
    bool only_copy;
    bool pure;
    bool dry_run;
    ...;
} llama_model_quantize_params;

llama_model_quantize_params llama_model_quantize_default_params(void);
