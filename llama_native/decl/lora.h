/* LoRA adapters: facts about a loaded one. Loading and attaching go through shim.h. */

void llama_adapter_lora_free(struct llama_adapter_lora *adapter);
int32_t llama_adapter_meta_count(const struct llama_adapter_lora *adapter);
int32_t llama_adapter_meta_key_by_index(const struct llama_adapter_lora *adapter, int32_t i, char *buf, size_t buf_size);
int32_t llama_adapter_meta_val_str_by_index(
    const struct llama_adapter_lora *adapter, int32_t i, char *buf, size_t buf_size);
