/* The memory of a context (KV cache, recurrent state): read-only calls. Changes go through shim.h. */

llama_memory_t llama_get_memory(const struct llama_context *ctx);
bool llama_memory_can_shift(llama_memory_t memory);
