"""build_llama.sh refuses wrong usage and missing tools with one line and exit code 2, before it makes anything."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import COMPILERS, RunBuild
from .tree import write_tree


def test_help_names_every_option(root: Path, run_build: RunBuild) -> None:
    result = run_build("--help")
    assert result.returncode == 0
    source = (root / "build_llama.sh").read_text()
    options = set(re.findall(r"^ +(--[a-z-]+)(?= |\))", source, flags=re.MULTILINE))
    assert {"--cuda", "--vulkan", "--opencl", "--clblast", "--blas", "--rpc", "--march", "--tools"} <= options
    for option in options:
        assert re.search(rf"^  {option}\b", result.stdout, flags=re.MULTILINE), option


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--bogus"], "unknown option '--bogus'"),
        (["--march"], "--march needs a value"),
        (["--march", "--tools"], "--march needs a value"),
        (["--march", "no-such-cpu"], "does not know --march no-such-cpu"),
        (["--jobs", "many"], "not 'many'"),
        (["--blas", "--clblast"], "exclude each other"),
        (["--cuda-arch", "90"], "--cuda-arch needs --cuda"),
    ],
)
def test_wrong_usage(run_build: RunBuild, cache: Path, options: list[str], reason: str) -> None:
    result = run_build(*options)
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""
    assert not cache.exists()


@pytest.mark.parametrize(
    ("options", "present", "variables", "reason"),
    [
        ([], (), {}, "no working C++17 compiler found"),
        ([], COMPILERS, {"CXX": "no-such-compiler"}, "no working C++17 compiler found"),
        (["--cuda"], COMPILERS, {"CUDACXX": "no-such-nvcc"}, "--cuda needs nvcc"),
        (["--vulkan"], COMPILERS, {}, "--vulkan needs glslc"),
        (["--blas"], COMPILERS, {}, "--blas needs OpenBLAS"),
    ],
)
def test_missing_tool(
    run_build: RunBuild,
    path_with: Callable[..., str],
    cache: Path,
    options: list[str],
    present: tuple[str, ...],
    variables: dict[str, str],
    reason: str,
) -> None:
    result = run_build(*options, PATH=path_with(*present), **variables)
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not cache.exists()


@pytest.mark.parametrize(
    ("option", "header", "reason"),
    [
        ("--vulkan", "VK_EXT_layer_settings", "needs newer Vulkan headers"),
        ("--vulkan", "vulkan/vulkan.hpp", "needs the Vulkan headers and loader"),
        ("--vulkan", "spirv/", "needs the SPIR-V headers"),
        ("--opencl", "CL/", "needs the OpenCL headers and loader"),
        ("--clblast", "clblast", "CLBlast with its CBLAS (Netlib) interface"),
    ],
)
def test_missing_headers(run_build: RunBuild, tmp_path: Path, option: str, header: str, reason: str) -> None:
    """A compiler that knows every SDK but one: its headers decide, whatever this machine has installed."""
    compiler = tmp_path / "c++"
    compiler.write_text(
        "#!/bin/sh\n"
        '[ "$1" = --version ] && exec c++ --version\n'
        f'input=$(cat)\ncase $input in *"{header}"*) exit 1 ;; esac\n'
    )
    glslc = tmp_path / "glslc"
    glslc.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    glslc.chmod(0o755)
    result = run_build(option, "--print-prefix", CXX=str(compiler), PATH=f"{tmp_path}:/usr/local/bin:/usr/bin:/bin")
    assert result.returncode == 2
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
    if option == "--clblast":
        assert "--vulkan" in result.stderr
        assert "--opencl" in result.stderr


def test_no_place_for_the_cache(run_build: RunBuild, tmp_path: Path) -> None:
    result = run_build("--print-prefix", source=write_tree(tmp_path / "tree"), XDG_CACHE_HOME="", HOME="")
    assert result.returncode == 2
    assert "neither HOME nor XDG_CACHE_HOME" in result.stderr


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_source_that_is_none(run_build: RunBuild, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run_build(source=tmp_path / name)
    assert result.returncode == 2
    assert "LLAMA_CPP_SOURCE" in result.stderr


def test_clblast_with_its_cblas_interface(run_build: RunBuild, tmp_path: Path, root: Path) -> None:
    """A header and a library of CLBlast's names are enough to start; <cblas.h> then means CLBlast's."""
    include, library = tmp_path / "include", tmp_path / "lib"
    include.mkdir()
    library.mkdir()
    (include / "clblast_netlib_c.h").write_text("#define CLBLAST_HEADER 1\n")
    subprocess.run(["cc", "-shared", "-x", "c", "/dev/null", "-o", library / "libclblast.so"], check=True)
    places = {"CPATH": str(include), "LIBRARY_PATH": str(library)}
    result = run_build("--clblast", "--print-prefix", source=write_tree(tmp_path / "tree"), **places)
    assert result.returncode == 0, result.stderr

    program = "#include <cblas.h>\n#ifndef CLBLAST_HEADER\n#error not CLBlast\n#endif\n"
    command = ["c++", "-E", "-x", "c++", "-I", str(root / "vendor/llama.cpp/clblast"), "-I", str(include), "-"]
    subprocess.run(command, input=program, text=True, check=True, capture_output=True)
