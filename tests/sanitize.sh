#!/usr/bin/env bash
# Builds the CPU kernels aside with sanitizers and runs the tests of the ops on that build:
#   tests/sanitize.sh address   AddressSanitizer and UndefinedBehaviorSanitizer: no byte outside of a tensor is touched
#   tests/sanitize.sh thread    ThreadSanitizer, with OpenMP's runtime of tests/ops/openmp.cpp: no two threads race
# Needs g++ with its sanitizers, and what `pip install -e '.[test]'` installs. PYTHON names the interpreter. Torch itself
# is not instrumented, so this looks at what the kernels do alone. What follows the first word goes to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
case "${1:-}" in
  address) sanitizers=address,undefined libraries="asan ubsan" ;;
  thread) sanitizers=thread libraries=tsan ;;
  *) echo "usage: tests/sanitize.sh address|thread [pytest's options]" >&2; exit 2 ;;
esac
shift
aside=${SANITIZED:-$(mktemp -d)}
[ -n "${SANITIZED:-}" ] || trap 'rm -rf "$aside"' EXIT
cmake -S . -B "$aside/build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLITFAST_CUDA=off \
  -DLITFAST_SANITIZE="$sanitizers" -DPython_EXECUTABLE="$(command -v "$python")"
cmake --build "$aside/build" -- ${JOBS:+-j"$JOBS"}
mkdir -p "$aside/tree"
rm -rf "$aside/tree/litfast"
cp -r litfast "$aside/tree/litfast"
rm -f "$aside"/tree/litfast/_C*.so
cp "$aside"/build/_C*.so "$aside/tree/litfast/"

for library in $libraries stdc++; do
  preload=${preload:+$preload:}$(g++ -print-file-name="lib$library.so")
done
# Python's own memory and its libraries' leaks at the end are not ours
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:report_signal_unsafe=0
export PYTHONPATH="$aside/tree" OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} LD_PRELOAD="$preload"
tests="cpp kd ir lit channel_l1 low_rank augment mistakes determinism"
# -P: the package of the working tree stays out of the way
"$(command -v "$python")" -P -m pytest -p no:cacheprovider -k "not triton and not compile" \
  "$@" $(printf 'tests/ops/test_%s.py ' $tests)
