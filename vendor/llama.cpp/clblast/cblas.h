/* CBLAS as ggml's BLAS backend expects it, on CLBlast's Netlib interface.
 *
 * CLBlast declares cblas_sgemm with enumerations of its own names; their values are those of CBLAS. build_llama.sh
 * --clblast puts this folder on the include path, so that `#include <cblas.h>` finds it. */
#ifndef LUCID_CLBLAST_CBLAS_H
#define LUCID_CLBLAST_CBLAS_H

#include <clblast_netlib_c.h>

#define CblasRowMajor CLBlastLayoutRowMajor
#define CblasColMajor CLBlastLayoutColMajor
#define CblasNoTrans CLBlastTransposeNo
#define CblasTrans CLBlastTransposeYes

#endif
