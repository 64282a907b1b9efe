// The front door of the library: all that a program needs to quantise tensors, multiply them and train a model.
// docs/library.md leads through it; headers of single subjects include less.
#pragma once

#include "nibble/data/loader.h"
#include "nibble/data/tokenizer.h"
#include "nibble/io/data_file.h"
#include "nibble/model/hugging_face.h"
#include "nibble/model/llama.h"
#include "nibble/ops/gemm.h"
#include "nibble/ops/spmm.h"
#include "nibble/quant/hadamard.h"
#include "nibble/quant/quantize.h"
#include "nibble/recipe/recipe.h"
#include "nibble/tensor/device.h"
#include "nibble/tensor/tensor.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/compare.h"
#include "nibble/train/optimizer.h"
#include "nibble/train/stage.h"
#include "nibble/train/trainer.h"
