#!/usr/bin/env bash
# Train small encoders on digits, score them for every figure, draw docs/gallery.md and docs/gallery/.
#   docs/gallery.sh OUT
# About twenty minutes on two cores.
set -euo pipefail
out=$1
here=$(dirname "$0")
ssa() { "${PYTHON:-python}" -m ssa_analysis "$@"; }
[ -e "$out/scores.db" ] || ssa demo --out "$out"
some=("$out/runs/simclr-s1/last.pt" "$out/runs/ssa-clr-s1/last.pt")
store=(--data digits --store "$out/scores.db" --measures landscape --set landscape.points=15 --set landscape.grid=9)
ssa score "${some[@]}" "${store[@]}" --set landscape.along=eigenvectors
ssa score "${some[@]}" "${store[@]}" --set landscape.along=checkpoint --set "landscape.other=$out/runs/simclr-s0/last.pt"
ssa score "${some[@]}" --data digits --store "$out/scores.db" --measures views --set views.images=500
for method in simclr ssa-clr; do
  run=$out/recorded/$method
  [ -e "$run/last.pt" ] || ssa train --method $method --data digits --arch convnet --projector 64,32 --epochs 20 --batch 128 \
    --lr 0.1 --warmup 2 --keep-every 10 --record curvature,shift --record-every 5 --out "$run" \
    --set curvature.pairs=64 --set curvature.top=1 --set curvature.max_products=30 --set shift.permutations=99
  ssa score "$run"/epochs/*.pt --data digits --store "$out/epochs.db" --measures bounds --set bounds.scales=0
done
"${PYTHON:-python}" "$here/gallery.py" "$out/scores.db" "$out/epochs.db"
ssa report "$out/scores.db" --out "$out/report"
chromium --headless --no-sandbox --hide-scrollbars --virtual-time-budget=9000 --window-size=1280,900 \
  --screenshot="$here/gallery/report.png" "file://$(realpath "$out/report/index.html")"
