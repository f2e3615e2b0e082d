#!/usr/bin/env bash
# ResNet-56 with and without shortcuts (Li et al. 2018): every measure of sharpness, and both surfaces.
#
#   docs/study/resnet56.sh CHECKPOINTS CIFAR OUT
#
# CHECKPOINTS holds losslandscape_resnet56_model_300.t7 and losslandscape_resnet56_noshort_model_300.t7 (the published
# files of https://github.com/tomgoldstein/loss-landscape), CIFAR is torchvision's folder. One core for each net, about an hour.
# Killed, it goes on where it stopped.
set -euo pipefail
checkpoints=$1 cifar=$2 out=$3
here=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$out"

score() { # net, function, store, further arguments
    local net=$1 function=$2 store=$3
    shift 3
    OMP_NUM_THREADS=1 ssa-analyze score "$checkpoints/$net" --model "$here/examples/cifar_resnet.py:$function" \
        --normalise 0.4914,0.4824,0.4467/0.2471,0.2435,0.2616 --data cifar10 --data-root "$cifar" --no-download \
        --loss supervised --store "$out/$store" "$@"
}

one() { # everything about one net; the images are 256 training images, as in the paper the training loss is drawn
    local images=(--set curvature.split=train --set flatness.split=train --set landscape.split=train)
    score "$1" "$2" scores.db "${images[@]}" --measures landscape --set landscape.grid=31 --set landscape.directions=5
    score "$1" "$2" scores.db "${images[@]}" --measures landscape --set landscape.along=eigenvectors --set landscape.grid=0
    # BatchNorm frozen and re-estimated at every point, on the same coarser grid because the latter takes time
    for batchnorm in frozen reestimated; do
        score "$1" "$2" $batchnorm.db "${images[@]}" --measures landscape --set landscape.batchnorm=$batchnorm \
            --set landscape.grid=15 --set landscape.directions=5
    done
    score "$1" "$2" scores.db "${images[@]}" --measures flatness,curvature
}

one losslandscape_resnet56_model_300.t7 resnet56 > "$out/resnet56.log" 2>&1 &
one losslandscape_resnet56_noshort_model_300.t7 resnet56_no_shortcuts > "$out/resnet56_no_shortcuts.log" 2>&1 &
wait %1
wait %2
nets=(losslandscape_resnet56_model losslandscape_resnet56_noshort)
for store in scores frozen reestimated; do
    ssa-analyze report "$out/$store.db" --out "$out/report-$store"
    python "$here/study/two_nets.py" "$out/$store.db" "${nets[@]}" > "$out/$store.md"
done
