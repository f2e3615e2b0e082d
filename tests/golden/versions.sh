#!/usr/bin/env bash
# The golden run with the oldest torch that setup.py allows and with the newest that the registry has:
#
#   tests/golden/versions.sh FOLDER [oldest] [newest]
#
# makes an environment for each in FOLDER (6 GB each; what is there already is used again) and runs tests/golden in it. PYTHON
# names the interpreter to build them with. The row of docs/reliability.md is made from these environments by
#
#   SSA_GOLDEN_PYTHONS=FOLDER/oldest/bin/python:FOLDER/newest/bin/python python tests/reliability/table.py --only golden_versions
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
folder=${1:?usage: tests/golden/versions.sh FOLDER [oldest] [newest]}
shift
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
status=0
[ $# -gt 0 ] || set -- oldest newest
for name in "$@"; do
    case $name in
        oldest) constraints=(-c "$root/tests/floors.txt") ;;
        newest) constraints=(--upgrade) ;;
        *) echo "oldest or newest, got $name" >&2; exit 2 ;;
    esac
    python=$folder/$name/bin/python
    if ! [ -e "$folder/$name/ready" ]; then
        "${PYTHON:-python3}" -m venv "$folder/$name"
        "$python" -m pip install --quiet --upgrade pip
        "$python" -m pip install --quiet --no-cache-dir "${constraints[@]}" --editable "$root" pytest hypothesis
        touch "$folder/$name/ready"
    fi
    "$python" -c 'import sys, torch, kornia; print("python", sys.version.split()[0], "torch", torch.__version__, "kornia", kornia.__version__)' 2>/dev/null
    (cd "$root" && "$python" -m pytest -q -p no:cacheprovider tests/golden) || status=1
    (cd "$root" && "$python" -W ignore tests/golden/make.py --compare) || status=1
done
exit $status
