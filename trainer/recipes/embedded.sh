#!/usr/bin/env bash
# The embedded model from photographs to packaged weights. Stopped at any moment, it continues where it was.
#
#   FLICKR8K=DIR COCO128=DIR [GPU=1] [PACKAGE=1] trainer/recipes/embedded.sh
#
# GPU=1 adds the fourth part, minutes on a large GPU, many hours on a CPU; without it the model is that of the third.
# PACKAGE=1 copies the result over the weights in shared/presets/embedded; without it they stay in RUNS.
# FLICKR8K: images/, captions_train.tsv and captions_dev.tsv (file<TAB>caption), photographs at 224x224.
# COCO128:  images/ and objects.jsonl (name, box_cxcywh).
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${FLICKR8K:?set FLICKR8K to the folder with images/ and captions_train.tsv}"
: "${COCO128:?set COCO128 to the folder with images/ and objects.jsonl}"
RUNS=${RUNS:-runs/embedded}
DATA=$RUNS/data
trainer() { python -m trainer "$@"; }

dialogues() { # SPLIT CAPTIONS [more]
    local split=$1 captions=$2
    shift 2
    [ -f "$DATA/$split/report.json" ] || trainer dialogues --split "$split" --captions "$FLICKR8K/$captions" \
        --images "$FLICKR8K/images" --boxes "$COCO128/objects.jsonl" --box-images "$COCO128/images" \
        --out "$DATA/$split" --seed 0 "$@"
}

dialogues train captions_train.tsv --text embedded
dialogues eval captions_dev.tsv
trainer prepare --annotations "$DATA/train/records.json" "$DATA/train/text.json" \
    --images "$FLICKR8K/images" "$COCO128/images" "$DATA/train/images" --out "$DATA/prepared"
[ -d "$RUNS/pretrain/final" ] || trainer pretrain --config trainer/recipes/embedded-pretrain.toml \
    --data "$DATA/prepared" --out "$RUNS/pretrain" --resume
[ -d "$RUNS/finetune/final" ] || trainer finetune --config trainer/recipes/embedded-finetune.toml \
    --data "$DATA/prepared" --init "$RUNS/pretrain/final" --out "$RUNS/finetune" --resume
[ -d "$RUNS/continue/final" ] || trainer finetune --config trainer/recipes/embedded-continue.toml \
    --data "$DATA/prepared" --init "$RUNS/finetune/final" --out "$RUNS/continue" --resume
[ -d "$RUNS/reward/final" ] || trainer finetune --config trainer/recipes/embedded-reward.toml \
    --data "$DATA/prepared" --init "$RUNS/continue/final" --out "$RUNS/reward" --resume
[ -d "$RUNS/mean" ] || trainer average --checkpoints "$RUNS/continue/final" "$RUNS/reward/final" --weights 4 6 --out "$RUNS/mean"
MODEL=$RUNS/mean
reward_on_gpu() { # NAME TEMPERATURE SEED
    local out=$RUNS/gpu-$1
    [ -d "$out/final" ] || TORCH_ALLOW_TF32_CUBLAS_OVERRIDE=1 trainer finetune \
        --config trainer/recipes/embedded-reward-gpu.toml --data "$DATA/prepared" --init "$RUNS/mean" --out "$out" \
        --self-critical-temperature "$2" --seed "$3" --resume
}
if [ "${GPU:-}" = 1 ]; then
    reward_on_gpu a 0.7 11
    reward_on_gpu b 1.0 13
    MODEL=$RUNS/gpu-mean
    [ -d "$MODEL" ] || trainer average --out "$MODEL" --weights 4 1 1 1 1 --checkpoints "$RUNS/mean" \
        "$RUNS"/gpu-[ab]/checkpoints/step-0000[46]0
fi
trainer evaluate --checkpoint "$MODEL" --captions "$FLICKR8K/captions_dev.tsv" \
    --annotations "$DATA/eval/records.json" --images "$FLICKR8K/images" "$DATA/eval/images" --retention --blind \
    --neighbours "$FLICKR8K/captions_train.tsv" --training "$DATA/train/records.json" --out "$RUNS/evaluation.json" --resume
if [ "${PACKAGE:-}" = 1 ]; then
    cp -r "$MODEL/." shared/presets/embedded/
else
    echo "trained: $MODEL; PACKAGE=1 puts it into shared/presets/embedded"
fi
