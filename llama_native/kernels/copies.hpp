// Which cells of a KV cache hold the same bits as those of another stream.
//
// Where each sequence has cells of its own (a stream), a shared prefix is copied. Attention of several streams then reads
// the same bits from as many places, each once, at the speed of memory; told that they are copies, it reads them from one
// place, which stays in the processor's caches. And of a stream that is copied only those cells need to be that hold
// anything.
//
// Nothing is taken on trust: a cache's tensors are written to by SET_ROWS, whose cells we see when a graph is planned, and
// through the functions of their buffer, which pass by here. Whatever else writes ends what is known. A tensor of which
// nothing is known is copied and read as a whole.
#pragma once

#include <cstdint>

#include "ggml-backend-impl.h"

namespace lucid::copies {

// Of a stream: its first `cells` cells are the same as those of stream `origin`.
struct shared {
    int64_t origin = 0;
    int64_t cells = 0;
};

// By the thread that plans a graph: `op` will be computed. Of any operation but attention and SET_ROWS it is only of
// interest whether it writes into a cache.
void will_compute(const ggml_tensor * op);

// What is known of the streams of the cache that `view` shows a part of, one for each of them, or null. True, and where it
// is, until the graph that is being planned has been computed.
const shared * of(const ggml_tensor * view);

// Has what is written through their functions noted, of buffers of ggml's CPU backend that are made from now on.
void install();

}  // namespace lucid::copies
