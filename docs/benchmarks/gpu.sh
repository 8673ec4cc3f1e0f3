#!/usr/bin/env bash
# Measures the goals for GPUs, a stage at a time: gpu.sh OUT [inference] [mambair] [training] [peers] [operators] [trace]
# Every stage prints its table and writes it to OUT as Markdown and JSON. DEVICE, SIZE, PATCHES, BATCH, DTYPES and
# REPEATS change what is measured (DEVICE=cpu SIZE=64x96 PATCHES=32x32 DTYPES=fp32 is a rehearsal).
set -euo pipefail
out="$1"
shift
mkdir -p "$out"

device="${DEVICE:-cuda}" size="${SIZE:-720x1280}" patches="${PATCHES:-128x128,256x256}" batch="${BATCH:-8}"
dtypes="${DTYPES:-bf16,tf32}" repeats="${REPEATS:-20}"

bench() {
    local name="$1"
    shift
    xyscan bench --device "$device" --repeats "$repeats" "$@" --json "$out/$name.json" --markdown "$out/$name.md"
}

# The eager formulation scans with mamba-ssm's CUDA kernel where there is one, else with a loop.
eager=eager-loop graph=
if [ "$device" = cuda ]; then
    graph=",graph"
    if python -c "from mamba_ssm.ops.selective_scan_interface import selective_scan_fn" 2>/dev/null; then
        eager=eager-cuda
    fi
fi

for stage in "${@:-inference}"; do
    case "$stage" in
    inference)
        bench inference --models xyscannet-b,xyscannet --sizes "$size" --dtypes "$dtypes" \
            --forms "fused,unfused,compiled$graph,$eager"
        ;;
    mambair)
        bench mambair --models xyscannet-b --compare mambair --sizes "$size" --dtypes "$dtypes" --forms "fused,$eager"
        ;;
    training)
        bench training --models xyscannet-b --compare mambair --train --sizes "$patches" --batch "$batch" \
            --dtypes "$dtypes" --forms "unfused,compiled,$eager"
        ;;
    peers)
        bench peers --models xyscannet-b --compare mambair,nafnet,restormer,fftformer,uformer,mprnet \
            --sizes "256x256,$size" --dtypes "$dtypes" --forms fused,compiled,unfused --plot "$out/peers"
        bench peers-training --models xyscannet-b --compare mambair,nafnet,restormer,fftformer,uformer,mprnet \
            --train --sizes "$patches" --dtypes "$dtypes" --plot "$out/peers-training"
        ;;
    operators)
        bench operators --models xyscannet-b --ops --sizes "$size" --dtypes "$dtypes"
        bench operators-both --models xyscannet-b --ops --train --sizes "$size" --dtypes "$dtypes"
        ;;
    trace)
        bench trace --models xyscannet-b --sizes "$size" --dtypes "${dtypes%%,*}" --trace "$out/timeline.json"
        ;;
    *)
        echo "gpu.sh: no stage is named $stage" >&2
        exit 2
        ;;
    esac
done
