/* Our own C functions (llama_native/shim/). Both cffi and the C++ compiler read this file.
 *
 * A "guarded" call turns a C++ exception or a failed GGML_ASSERT of llama.cpp into a return value:
 * lucid_failure() then says which of the two it was, and lucid_message() why. Both are per thread. */

enum {
    LUCID_OK = 0,
    LUCID_EXCEPTION = 1,
    LUCID_ASSERTION = 2,
    LUCID_BAD_ARGUMENT = 3,
};

/* Return codes of decode, encode and step beside those of llama_decode. */
enum {
    LUCID_CODE_GUARDED = -1000,
    LUCID_CODE_BAD_BATCH = -1001,
};

void lucid_guard_install(void);
int lucid_failure(void);
const char *lucid_message(void);

/* Log. Lines are joined and filtered by level here; the sink gets whole lines of `level` or worse.
 * lucid_log_errors() are the error lines of this thread since its last guarded call began. */
void lucid_log_install(void (*sink)(int level, const char *text));
void lucid_log_level(int level);
void lucid_log_stop(void);
void lucid_log_forget(void);
const char *lucid_log_errors(void);

/* An abort callback for llama.cpp: `flag` points to an int32_t that any thread may set. */
bool lucid_abort_requested(void *flag);

/* Ends the compute threads that OpenMP keeps for the calling thread; the next computation makes new ones. */
void lucid_release_compute_threads(void);

/* From now on, large buffers in main memory ask the system for huge pages. */
void lucid_huge_pages_install(void);

/* Our own kernels (llama_native/kernels/). Install them before the first model is loaded; false: this processor lacks the
 * instructions. `kernels`: this model may use them; `packed` becomes the bytes of weights that they took. */
bool lucid_kernels_install(void);
struct llama_model *lucid_model_load(const char *path, const struct llama_model_params *params, bool kernels,
                                     size_t *packed);

/* Gives back the memory of what is mapped of a file (its resolved path); pages that are still used come back by themselves. */
void lucid_forget_pages(const char *path);
struct llama_context *lucid_context_new(struct llama_model *model, const struct llama_context_params *params);
bool lucid_synchronize(struct llama_context *ctx);

/* What a batch must keep to, so that no assertion of llama.cpp can fail. */
typedef struct lucid_limits {
    int32_t n_vocab;
    int32_t n_tokens_max;
    int32_t n_seq_max;
    int32_t n_outputs_max;
    int32_t n_seq_per_token;
    int32_t all_outputs;
    int32_t kernels; /* whether our own kernels may compute it, as far as weights are not packed for them */
} lucid_limits;

int32_t lucid_decode(struct llama_context *ctx, const llama_batch *batch, const lucid_limits *limits);
int32_t lucid_encode(struct llama_context *ctx, const llama_batch *batch, const lucid_limits *limits);
int32_t lucid_decode_sample(struct llama_context *ctx, const llama_batch *batch, const lucid_limits *limits,
                            const int32_t *rows, struct llama_sampler **samplers, const uint32_t **masks,
                            int32_t n_rows, int32_t *tokens, double *seconds);
const char *lucid_row_message(int32_t k);

float *lucid_logits(struct llama_context *ctx, int32_t row);
float *lucid_logits_all(struct llama_context *ctx);
float *lucid_embeddings(struct llama_context *ctx, int32_t row);
float *lucid_embeddings_all(struct llama_context *ctx);
float *lucid_embeddings_seq(struct llama_context *ctx, llama_seq_id seq);

int32_t lucid_argmax(const float *logits, int32_t n);
double lucid_top_logprobs(const float *logits, int32_t n, int32_t token, int32_t k, int32_t *ids, float *logprobs);

/* Sampling. A negative token means failure. */
int32_t lucid_sample(struct llama_context *ctx, struct llama_sampler *sampler, int32_t row, int32_t n_vocab);
int32_t lucid_sample_logits(struct llama_sampler *sampler, const float *logits, int32_t n_vocab);
bool lucid_sampler_accept(struct llama_sampler *sampler, llama_token token);
bool lucid_sampler_reset(struct llama_sampler *sampler);
struct llama_sampler *lucid_sampler_clone(const struct llama_sampler *sampler);
struct llama_sampler *lucid_sampler_grammar(const struct llama_vocab *vocab, const char *grammar, const char *root);
struct llama_sampler *lucid_sampler_grammar_lazy(
    const struct llama_vocab *vocab, const char *grammar, const char *root,
    const char **patterns, size_t n_patterns, const llama_token *tokens, size_t n_tokens);
struct llama_sampler *lucid_sampler_dry(
    const struct llama_vocab *vocab, float multiplier, float base, int32_t allowed_length, int32_t last_n,
    const char **breakers, size_t n_breakers);

/* Vocabulary. INT32_MIN means a guarded failure; other negative results ask for a larger buffer. */
int32_t lucid_tokenize(const struct llama_vocab *vocab, const char *text, int32_t length, llama_token *tokens,
                       int32_t capacity, bool add_special, bool parse_special);
int32_t lucid_detokenize(const struct llama_vocab *vocab, const llama_token *tokens, int32_t n_tokens, char *text,
                         int32_t capacity, bool remove_special, bool unparse_special);
int64_t lucid_vocab_pieces(const struct llama_vocab *vocab, bool special, char *bytes, int64_t capacity,
                           int64_t *offsets);

/* Memory. Each returns false on a guarded failure, lucid_memory_remove also when nothing partial can be removed. */
bool lucid_memory_clear(llama_memory_t memory, bool data);
bool lucid_memory_remove(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1);
bool lucid_memory_copy(llama_memory_t memory, llama_seq_id src, llama_seq_id dst, llama_pos p0, llama_pos p1);
bool lucid_memory_keep(llama_memory_t memory, llama_seq_id seq);
bool lucid_memory_shift(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1, llama_pos delta);
bool lucid_memory_divide(llama_memory_t memory, llama_seq_id seq, llama_pos p0, llama_pos p1, int divisor);
llama_pos lucid_memory_pos_min(llama_memory_t memory, llama_seq_id seq);
llama_pos lucid_memory_pos_max(llama_memory_t memory, llama_seq_id seq);

/* State. Zero means failure. */
size_t lucid_state_size(struct llama_context *ctx);
size_t lucid_state_get(struct llama_context *ctx, uint8_t *data, size_t size);
size_t lucid_state_set(struct llama_context *ctx, const uint8_t *data, size_t size);
size_t lucid_sequence_size(struct llama_context *ctx, llama_seq_id seq);
size_t lucid_sequence_get(struct llama_context *ctx, llama_seq_id seq, uint8_t *data, size_t size);
size_t lucid_sequence_set(struct llama_context *ctx, llama_seq_id seq, const uint8_t *data, size_t size);

struct llama_adapter_lora *lucid_lora_load(struct llama_model *model, const char *path);
bool lucid_lora_set(struct llama_context *ctx, struct llama_adapter_lora **adapters, size_t n, float *scales);
bool lucid_quantize(const char *source, const char *target, const llama_model_quantize_params *params);

/* Tokens on their way from the thread that makes them to the one that answers. `place` says whose a token is; a negative
 * token says that something else has come, which its taker finds elsewhere. Times are those of CLOCK_MONOTONIC, in
 * seconds, as of Python's time.perf_counter. */
typedef struct lucid_token_queue lucid_token_queue;

typedef struct {
    int32_t place;
    int32_t token;
    double time; /* of the put */
} lucid_token;

lucid_token_queue *lucid_token_queue_new(void); /* NULL: out of memory */
void lucid_token_queue_free(lucid_token_queue *queue);

typedef struct {
    lucid_token_queue *queue;
    int32_t place;
    int32_t token;
} lucid_parcel;

/* False: out of memory, some may be there. Texts that a relay waits for are written by the caller. */
bool lucid_token_queue_put(const lucid_parcel *parcels, int32_t n);
/* Waits at most so many seconds; false if nothing came. */
bool lucid_token_queue_get(lucid_token_queue *queue, double seconds, lucid_token *taken);

/* What a relay writes for each token: size bytes of `bytes` from its offset on; a negative size leaves the token in
 * the queue. */
typedef struct {
    const char *bytes;
    const int64_t *offsets;
    const int32_t *sizes;
    int32_t n_tokens;
} lucid_token_texts;

typedef struct {
    int32_t socket; /* not blocking */
    bool chunked;   /* each write is a chunk of HTTP/1.1 */
    double patience; /* most seconds from a token's put to its write, and for the write */
    const char *before; /* what stands before the text of each token */
    int32_t before_size;
    const char *after; /* and what after it */
    int32_t after_size;
} lucid_relay_target;

/* In a queue while a relay runs: what the socket did not take at once. Never seen by others. */
enum { LUCID_TOKEN_REST = -2147483647 };

enum {
    LUCID_RELAY_LEFT = 0, /* the first in the queue is not for a relay */
    LUCID_RELAY_TIME = 1, /* the time is up, or there is no room for more times */
    LUCID_RELAY_BEHIND = 2, /* the peer reads too slowly */
    LUCID_RELAY_BROKEN = 3, /* writing failed; what was being written may be cut off */
};

/* Takes tokens out of the queue and writes their texts; while it waits, who puts them writes. times[0..2] of each: when it
 * was taken, rendered, written. `n` is how many there were, of at most `capacity`. */
int32_t lucid_relay(lucid_token_queue *queue, const lucid_token_texts *texts, const lucid_relay_target *target,
                    double seconds, int32_t capacity, double *times, int32_t *n);

/* For tests: cells of all KV caches that are known to hold the same as those of another stream, in each tensor. */
int64_t lucid_shared_cells(void);

/* For comparisons: whether products of weights use AVX-512's products of bytes, where the processor has them. The results have
 * the same bits. Returns whether they are used from now on. */
bool lucid_use_vnni(bool wanted);
