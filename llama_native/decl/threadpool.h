/* CPU thread pools of ggml. */

struct ggml_threadpool_params {
    bool cpumask[...];
    int n_threads;
    int prio;
    uint32_t poll;
    bool strict_cpu;
    bool paused;
    ...;
};

struct ggml_threadpool_params ggml_threadpool_params_default(int n_threads);
ggml_threadpool_t ggml_threadpool_new(struct ggml_threadpool_params *params);
void ggml_threadpool_free(ggml_threadpool_t pool);
void ggml_threadpool_pause(ggml_threadpool_t pool);
void ggml_threadpool_resume(ggml_threadpool_t pool);
#define GGML_MAX_N_THREADS ...
