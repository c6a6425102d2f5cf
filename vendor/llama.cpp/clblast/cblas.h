/* ggml's BLAS backend includes <cblas.h>; CLBlast has the same functions and names in a header of its own.
 * build_llama.sh --clblast puts this folder on the include path. */
#include <clblast_netlib_c.h>
