#!/usr/bin/env bash
# Train eight encoders on digits and four on CIFAR-10, check every rung of the theory on them, print the table of the docs.
#   docs/study/bounds.sh CIFAR OUT
# CIFAR: folder with torchvision's CIFAR-10. About an hour and a half on two cores.
set -euo pipefail
cifar=$1 out=$2
here=$(dirname "$0")
ssa() { "${PYTHON:-python}" -m ssa_analysis "$@"; }
train_digits=(--data digits --arch convnet --projector 64,32 --epochs 60 --batch 128 --lr 0.1 --warmup 2 --rho 0.1 --keep-every 10)
data=(--data cifar10 --data-root "$cifar" --no-download)
train_cifar=("${data[@]}" --subset 7500 --width 16 --epochs 12 --warmup 1 --batch 128 --keep-every 3)
for method in simclr simclr-sam simclr-fourier ssa-clr; do
  [ -e "$out/cifar/$method/last.pt" ] || ssa train --method $method "${train_cifar[@]}" --out "$out/cifar/$method"
  for seed in 0 1; do
    run=$out/digits/$method-s$seed
    [ -e "$run/last.pt" ] || ssa train --method $method "${train_digits[@]}" --seed $seed --out "$run"
  done
done
ssa bounds "$out"/digits/*/last.pt --data digits --store "$out/digits.db" > "$out/digits.txt"
ssa bounds "$out"/digits/*/epochs/*.pt --data digits --store "$out/epochs.db" --set scales=0 > "$out/epochs.txt"
ssa bounds "$out"/cifar/*/last.pt "${data[@]}" --store "$out/cifar.db" > "$out/cifar.txt"
for name in digits epochs cifar; do ssa report "$out/$name.db" --out "$out/report-$name"; done
"${PYTHON:-python}" "$here/bounds_table.py" "$out/digits.db" "$out/cifar.db" | tee "$out/table.md"
