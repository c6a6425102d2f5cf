# shellcheck shell=bash disable=SC2154 # the variables are build_llama.sh's
#
# ggml's RPC backend and its server, added to a finished build. Sourced by build_llama.sh.
#
# The backend becomes a plug-in, lib/libggml-rpc.so: only a program that asks for it loads it, so the libraries and the
# prefix are the same with and without --rpc, and nothing has to be compiled twice. ggml's CMake files could make a
# plug-in only by turning all backends into plug-ins; this is what they would do for the one.

# compile_rpc OUTPUT SOURCE... [-- FLAG...]: compile files of the source tree into one program or library.
compile_rpc() {
    local output=$1 sources=() cxxflags ldflags
    shift
    while (($#)) && [[ $1 != -- ]]; do sources+=("$source_dir/$1"); shift; done
    read -ra cxxflags <<<"${CXXFLAGS:-}"
    read -ra ldflags <<<"${LDFLAGS:-}"
    "${cxx[@]}" -std=c++17 -O3 -DNDEBUG -D_GNU_SOURCE -DGGML_SHARED -DGGML_BACKEND_SHARED \
        -I "$source_dir/ggml/include" -I "$source_dir/ggml/src" "${cxxflags[@]}" "${sources[@]}" "${@:2}" \
        -L "$prefix/lib" -Wl,-rpath-link,"$prefix/lib" "${ldflags[@]}" -o "$output" 2>&1 |
        tee -a "$build_dir/rpc.log" >&2 || fail "compiling the RPC backend failed; the output is above"
}

# The program is moved into place last and says that all is there.
install_rpc() {
    local staging=$prefix.rpc.tmp
    rm -rf -- "$staging"
    mkdir -p -- "$staging" "$prefix/bin" "$build_dir"
    log "compiling the RPC backend"
    # Names in single quotes are for the loader: $ORIGIN is where the file lies.
    # shellcheck disable=SC2016
    compile_rpc "$staging/libggml-rpc.so" ggml/src/ggml-rpc/ggml-rpc.cpp ggml/src/ggml-rpc/transport.cpp -- \
        -shared -fPIC -DGGML_BACKEND_DL -DGGML_BACKEND_BUILD '-Wl,-rpath,$ORIGIN:$ORIGIN/../lib' -lggml-base -pthread
    # shellcheck disable=SC2016
    compile_rpc "$staging/ggml-rpc-server" tools/rpc/rpc-server.cpp -- '-Wl,-rpath,$ORIGIN/../lib' -lggml -lggml-base
    mv -f -- "$staging/libggml-rpc.so" "$prefix/lib/"
    ln -sfn -- ../lib/libggml-rpc.so "$prefix/bin/libggml-rpc.so" # the server looks for plug-ins beside itself
    mv -f -- "$staging/ggml-rpc-server" "$prefix/bin/"
    rmdir -- "$staging"
}
