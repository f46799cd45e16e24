/* The kernels as one translation unit: compiler.py compiles this file on the machine that runs it, for fp32 and, with
   BF16 defined, for bf16. GCC takes longer to read what it knows of vector instructions than to compile any of these
   files. */

#include "common.h"

#include "kernels.h"

#include "rowwise.c"

#include "attention.c"

#include "decoding.c"

#include "layer.c"
