/* Samplers. Creation and use go through shim.h because llama.cpp throws there. */

struct llama_sampler_chain_params {
    bool no_perf;
    ...;
};

typedef struct llama_logit_bias {
    llama_token token;
    float bias;
} llama_logit_bias;

struct llama_sampler_chain_params llama_sampler_chain_default_params(void);
struct llama_sampler *llama_sampler_chain_init(struct llama_sampler_chain_params params);
void llama_sampler_chain_add(struct llama_sampler *chain, struct llama_sampler *sampler);
struct llama_sampler *llama_sampler_chain_get(struct llama_sampler *chain, int32_t i);
int llama_sampler_chain_n(const struct llama_sampler *chain);
const char *llama_sampler_name(const struct llama_sampler *sampler);
uint32_t llama_sampler_get_seed(const struct llama_sampler *sampler);
void llama_sampler_free(struct llama_sampler *sampler);

struct llama_sampler *llama_sampler_init_greedy(void);
struct llama_sampler *llama_sampler_init_dist(uint32_t seed);
struct llama_sampler *llama_sampler_init_top_k(int32_t k);
struct llama_sampler *llama_sampler_init_top_p(float p, size_t min_keep);
struct llama_sampler *llama_sampler_init_min_p(float p, size_t min_keep);
struct llama_sampler *llama_sampler_init_typical(float p, size_t min_keep);
struct llama_sampler *llama_sampler_init_temp(float temperature);
struct llama_sampler *llama_sampler_init_temp_ext(float temperature, float delta, float exponent);
struct llama_sampler *llama_sampler_init_xtc(float probability, float threshold, size_t min_keep, uint32_t seed);
struct llama_sampler *llama_sampler_init_top_n_sigma(float n);
struct llama_sampler *llama_sampler_init_mirostat(int32_t n_vocab, uint32_t seed, float tau, float eta, int32_t m);
struct llama_sampler *llama_sampler_init_mirostat_v2(uint32_t seed, float tau, float eta);
struct llama_sampler *llama_sampler_init_penalties(
    int32_t n_vocab, int32_t last_n, float repeat, float frequency, float presence);
struct llama_sampler *llama_sampler_init_adaptive_p(float target, float decay, uint32_t seed);
struct llama_sampler *llama_sampler_init_logit_bias(int32_t n_vocab, int32_t n, const llama_logit_bias *bias);
struct llama_sampler *llama_sampler_init_infill(const struct llama_vocab *vocab);
