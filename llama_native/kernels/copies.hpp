// Which cells of a KV cache hold the same bits as those of another stream.
//
// Where each sequence has cells of its own (a stream), a shared prefix is copied. Attention of several streams then reads
// the same bits from as many places, each once, at the speed of memory; told that they are copies, it reads them from one
// place, which stays in the processor's caches. And of a stream that is copied only those cells need to be that hold
// anything.
//
// Nothing is taken on trust: a cache's tensors are written to by operations, which we see when a graph is planned, and
// through the functions of their buffer, which pass by here. What is not understood ends what is known.
#pragma once

#include <cstdint>

struct ggml_tensor;

namespace lucid::copies {

// Of a stream: its first `cells` cells are the same as those of stream `origin`, which lie `offset` bytes further on.
struct shared {
    int64_t origin = 0;
    int64_t offset = 0;
    int64_t cells = 0;
};

// By the thread that plans a graph, of every operation that writes into a tensor that is not its own: it will be computed.
void will_compute(const ggml_tensor * op);

// By the thread that plans: what is known of the streams that `view`, [.., cells, heads, streams], shows; an entry for each of
// them, or null. True until something else writes into the cache; there until its buffer is freed.
const shared * of(const ggml_tensor * view);

// Has what is written through their functions noted, of buffers of ggml's CPU backend that are made from now on.
void install();

}  // namespace lucid::copies
