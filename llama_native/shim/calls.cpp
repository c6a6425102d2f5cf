// llama.cpp's functions that can throw or assert, each behind the guard. Thin on purpose.

#include <climits>
#include <vector>

#include "guard.hpp"

using lucid::guarded;

extern "C" {

llama_context * lucid_context_new(llama_model * model, const llama_context_params * params) {
    return guarded<llama_context *>(nullptr, [&] { return llama_init_from_model(model, *params); });
}

bool lucid_synchronize(llama_context * ctx) {
    return guarded(false, [&] { llama_synchronize(ctx); return true; });
}

float * lucid_logits(llama_context * ctx, int32_t row) {
    return guarded<float *>(nullptr, [&] { return llama_get_logits_ith(ctx, row); });
}

float * lucid_logits_all(llama_context * ctx) {
    return guarded<float *>(nullptr, [&] { return llama_get_logits(ctx); });
}

float * lucid_embeddings(llama_context * ctx, int32_t row) {
    return guarded<float *>(nullptr, [&] { return llama_get_embeddings_ith(ctx, row); });
}

float * lucid_embeddings_all(llama_context * ctx) {
    return guarded<float *>(nullptr, [&] { return llama_get_embeddings(ctx); });
}

float * lucid_embeddings_seq(llama_context * ctx, llama_seq_id seq) {
    return guarded<float *>(nullptr, [&] { return llama_get_embeddings_seq(ctx, seq); });
}

bool lucid_sampler_accept(llama_sampler * sampler, llama_token token) {
    return guarded(false, [&] { llama_sampler_accept(sampler, token); return true; });
}

bool lucid_sampler_reset(llama_sampler * sampler) {
    return guarded(false, [&] { llama_sampler_reset(sampler); return true; });
}

llama_sampler * lucid_sampler_clone(const llama_sampler * sampler) {
    return guarded<llama_sampler *>(nullptr, [&] { return llama_sampler_clone(sampler); });
}

llama_sampler * lucid_sampler_grammar(const llama_vocab * vocab, const char * grammar, const char * root) {
    return guarded<llama_sampler *>(nullptr, [&] { return llama_sampler_init_grammar(vocab, grammar, root); });
}

llama_sampler * lucid_sampler_grammar_lazy(const llama_vocab * vocab, const char * grammar, const char * root,
                                           const char ** patterns, size_t n_patterns, const llama_token * tokens,
                                           size_t n_tokens) {
    return guarded<llama_sampler *>(nullptr, [&] {
        return llama_sampler_init_grammar_lazy_patterns(vocab, grammar, root, patterns, n_patterns, tokens, n_tokens);
    });
}

llama_sampler * lucid_sampler_dry(const llama_vocab * vocab, float multiplier, float base, int32_t allowed_length,
                                  int32_t last_n, const char ** breakers, size_t n_breakers) {
    return guarded<llama_sampler *>(nullptr, [&] {
        return llama_sampler_init_dry(vocab, multiplier, base, allowed_length, last_n, breakers, n_breakers);
    });
}

int32_t lucid_tokenize(const llama_vocab * vocab, const char * text, int32_t length, llama_token * tokens,
                       int32_t capacity, bool add_special, bool parse_special) {
    return guarded<int32_t>(INT32_MIN, [&] {
        return llama_tokenize(vocab, text, length, tokens, capacity, add_special, parse_special);
    });
}

int32_t lucid_detokenize(const llama_vocab * vocab, const llama_token * tokens, int32_t n_tokens, char * text,
                         int32_t capacity, bool remove_special, bool unparse_special) {
    return guarded<int32_t>(INT32_MIN, [&] {
        return llama_detokenize(vocab, tokens, n_tokens, text, capacity, remove_special, unparse_special);
    });
}

// Writes the bytes of every token after each other; offsets[i]..offsets[i + 1] is token i. Returns the bytes needed,
// which may exceed `capacity` (then call again), or a negative number on failure.
int64_t lucid_vocab_pieces(const llama_vocab * vocab, bool special, char * bytes, int64_t capacity, int64_t * offsets) {
    return guarded<int64_t>(INT64_MIN, [&] {
        const int32_t n_tokens = llama_vocab_n_tokens(vocab);
        std::vector<char> piece(256);
        int64_t used = 0;
        offsets[0] = 0;
        for (int32_t token = 0; token < n_tokens; ++token) {
            int32_t n = llama_token_to_piece(vocab, token, piece.data(), (int32_t) piece.size(), 0, special);
            if (n < 0) {
                piece.resize((size_t) -(int64_t) n);
                n = llama_token_to_piece(vocab, token, piece.data(), (int32_t) piece.size(), 0, special);
            }
            n = n < 0 ? 0 : n;
            if (used + n <= capacity) {
                std::copy(piece.begin(), piece.begin() + n, bytes + used);
            }
            used += n;
            offsets[token + 1] = used;
        }
        return used;
    });
}

bool lucid_memory_clear(llama_memory_t memory, bool data) {
    return guarded(false, [&] { llama_memory_clear(memory, data); return true; });
}

bool lucid_memory_remove(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1) {
    return guarded(false, [&] { return llama_memory_seq_rm(memory, seq, p0, p1); });
}

bool lucid_memory_copy(llama_memory_t memory, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1) {
    return guarded(false, [&] { llama_memory_seq_cp(memory, src, dst, p0, p1); return true; });
}

bool lucid_memory_keep(llama_memory_t memory, llama_seq_id seq) {
    return guarded(false, [&] { llama_memory_seq_keep(memory, seq); return true; });
}

bool lucid_memory_shift(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1, llama_pos delta) {
    return guarded(false, [&] { llama_memory_seq_add(memory, seq, p0, p1, delta); return true; });
}

bool lucid_memory_divide(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1, int divisor) {
    return guarded(false, [&] { llama_memory_seq_div(memory, seq, p0, p1, divisor); return true; });
}

llama_pos lucid_memory_pos_min(llama_memory_t memory, llama_seq_id seq) {
    return guarded<llama_pos>(INT32_MIN, [&] { return llama_memory_seq_pos_min(memory, seq); });
}

llama_pos lucid_memory_pos_max(llama_memory_t memory, llama_seq_id seq) {
    return guarded<llama_pos>(INT32_MIN, [&] { return llama_memory_seq_pos_max(memory, seq); });
}

size_t lucid_state_size(llama_context * ctx) {
    return guarded<size_t>(0, [&] { return llama_state_get_size(ctx); });
}

size_t lucid_state_get(llama_context * ctx, uint8_t * data, size_t size) {
    return guarded<size_t>(0, [&] { return llama_state_get_data(ctx, data, size); });
}

size_t lucid_state_set(llama_context * ctx, const uint8_t * data, size_t size) {
    return guarded<size_t>(0, [&] { return llama_state_set_data(ctx, data, size); });
}

size_t lucid_sequence_size(llama_context * ctx, llama_seq_id seq) {
    return guarded<size_t>(0, [&] { return llama_state_seq_get_size(ctx, seq); });
}

size_t lucid_sequence_get(llama_context * ctx, llama_seq_id seq, uint8_t * data, size_t size) {
    return guarded<size_t>(0, [&] { return llama_state_seq_get_data(ctx, data, size, seq); });
}

size_t lucid_sequence_set(llama_context * ctx, llama_seq_id seq, const uint8_t * data, size_t size) {
    return guarded<size_t>(0, [&] { return llama_state_seq_set_data(ctx, data, size, seq); });
}

llama_adapter_lora * lucid_lora_load(llama_model * model, const char * path) {
    return guarded<llama_adapter_lora *>(nullptr, [&] { return llama_adapter_lora_init(model, path); });
}

bool lucid_lora_set(llama_context * ctx, llama_adapter_lora ** adapters, size_t n, float * scales) {
    return guarded(false, [&] { return llama_set_adapters_lora(ctx, adapters, n, scales) == 0; });
}

bool lucid_quantize(const char * source, const char * target, const llama_model_quantize_params * params) {
    return guarded(false, [&] { return llama_model_quantize(source, target, params) == 0; });
}

}  // extern "C"
