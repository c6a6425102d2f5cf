"""A source tree that looks like llama.cpp to build_llama.sh and compiles in a second.

It has the same targets and output folders, and one function per library. Each compilation adds a line to the file
`compiled` beside it, so that tests can count them.
"""

from __future__ import annotations

from pathlib import Path

LISTS = """
cmake_minimum_required(VERSION 3.14)
project(tiny C CXX)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/count.c
    COMMAND sh ${CMAKE_SOURCE_DIR}/src/step.sh ${CMAKE_BINARY_DIR}/count.c
    DEPENDS ${CMAKE_SOURCE_DIR}/src/llama.c ${CMAKE_SOURCE_DIR}/src/step.sh)
add_library(ggml SHARED ggml/ggml.c)
add_library(ggml-base SHARED ggml/base.c)
add_library(llama SHARED src/llama.c ${CMAKE_BINARY_DIR}/count.c)
target_include_directories(llama PRIVATE include)
target_link_libraries(llama ggml ggml-base)
if (LLAMA_BUILD_TOOLS)
    foreach(tool llama-bench llama-batched-bench llama-server llama-quantize)
        add_executable(${tool} tools/main.c)
        target_link_libraries(${tool} llama)
    endforeach()
endif()
"""

FILES = {
    "CMakeLists.txt": LISTS,
    "LICENSE": "none\n",
    "include/llama.h": "int llama_answer(void);\n",
    "ggml/include/ggml.h": "int ggml_answer(void);\n",
    "ggml/src/ggml-impl.h": "",
    "ggml/src/ggml-backend-impl.h": "",
    "ggml/src/ggml-cpu/ggml-cpu-impl.h": "",
    "ggml/src/ggml-cpu/traits.h": "",
    "ggml/base.c": "int ggml_base_answer(void) { return 42; }\n",
    "ggml/src/ggml-rpc/ggml-rpc.cpp": 'extern "C" int ggml_base_answer();\nint rpc() { return ggml_base_answer(); }\n',
    "ggml/src/ggml-rpc/transport.cpp": "int transport() { return 42; }\n",
    "tools/rpc/rpc-server.cpp": 'extern "C" int ggml_answer();\nint main() { return ggml_answer() - 42; }\n',
    "ggml/ggml.c": "int ggml_answer(void) { return 42; }\n",
    "src/llama.c": '#include "llama.h"\nint ggml_answer(void);\nint llama_answer(void) { return ggml_answer(); }\n',
    "tools/main.c": "int llama_answer(void);\nint main(void) { return llama_answer() - 42; }\n",
    "cmake/empty.cmake": "",
    "common/empty.h": "",
    "vendor/empty.h": "",
    "licenses/empty": "",
    "scripts/ui-assets.cmake": "",
}


def write_tree(folder: Path, *, step: str = "true") -> Path:
    """Write the tree to `folder` and return it.

    :param step: a shell command that runs once per compilation of libllama; it may wait or fail.
    """
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    script = f'set -e\necho >> {folder.parent}/compiled\n{step}\necho "int counted;" > "$1"\n'
    (folder / "src" / "step.sh").write_text(script)
    return folder


def compilations(folder: Path) -> int:
    """How often libllama of the tree in `folder` was compiled."""
    counter = folder.parent / "compiled"
    return len(counter.read_text().splitlines()) if counter.exists() else 0
