#!/usr/bin/env bash
# The checks of firmware/core: unit tests under ASan and UBSan with gcc and with clang, a minute of
# fuzzing, and the Xtensa lane.
#
# usage: run.sh [--quick | --packages] [WORK_DIR]
#   --quick      gcc's build and tests only
#   --packages   prints the Debian packages that everything needs, one per line
#
# A part whose tools are missing is left out and named; with TINYSPLIT_REQUIRE_ALL=1 that is a failure.
# FUZZ_SECONDS (60) is how long to fuzz on one processor, all targets together.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
quick=
work=
for argument in "$@"; do
    case $argument in
    --quick) quick=1 ;;
    --packages)
        printf '%s\n' binutils-xtensa-lx106 clang-22 cmake gcc gcc-xtensa-lx106 libc6-dev libclang-rt-22-dev \
            libcmocka-dev libssl-dev llvm-22 ninja-build picolibc-xtensa-lx106-elf qemu-system-misc
        exit 0
        ;;
    -*)
        echo "usage: $0 [--quick | --packages] [WORK_DIR]" >&2
        exit 2
        ;;
    *) work=$argument ;;
    esac
done
work=${work:-$root/build/core-checks}
mkdir -p "$work" || exit 1
failed=0

report() { # part, verdict, words
    printf '%-14s %-8s %s\n' "$1" "$2" "$3"
    [ "$2" != FAILED ] || failed=1
}

# True if the part can run; else says which package brings what is missing.
have() { # part, then pairs of a command (or path) and its package
    local part=$1 command missing=
    shift
    while [ $# -gt 0 ]; do
        command=$1
        if ! command -v "$command" >/dev/null && [ ! -e "$command" ]; then
            case " $missing " in *" $2 "*) ;; *) missing="$missing${missing:+ }$2" ;; esac
        fi
        shift 2
    done
    [ -n "$missing" ] || return 0
    if [ "${TINYSPLIT_REQUIRE_ALL:-}" = 1 ]; then
        report "$part" FAILED "tools are missing: apt-get install $missing"
    else
        report "$part" "left out" "tools are missing: apt-get install $missing"
    fi
    return 1
}

newest_clang() {
    local name
    for name in clang-22 clang clang-21 clang-20 clang-19 clang-18; do
        if command -v "$name" >/dev/null; then
            echo "$name"
            return
        fi
    done
    echo clang-22
}

started=0
begin() { started=$(date +%s); }
took() { echo "$(($(date +%s) - started)) s"; }

# A command with its output in a log that is shown only if it fails.
quietly() { # log, command
    local log=$1
    shift
    "$@" >"$log" 2>&1 && return 0
    tail -n 40 "$log" >&2
    return 1
}

generator=
! command -v ninja >/dev/null || generator="-G Ninja"

build_and_test() { # compiler
    local compiler=$1 place="$work/$1"
    begin
    # shellcheck disable=SC2086
    if quietly "$work/$compiler.log" env CC="$compiler" cmake $generator -S "$root/firmware/core" -B "$place" &&
        quietly "$work/$compiler.log" cmake --build "$place" --parallel 2 &&
        quietly "$work/$compiler.log" ctest --test-dir "$place" --parallel 2 --output-on-failure; then
        report "$compiler" passed \
            "$(grep -c Passed "$work/$compiler.log") test programs under ASan and UBSan, -Werror, $(took)"
    else
        report "$compiler" FAILED "see $work/$compiler.log"
    fi
}

cmocka=/usr/include/cmocka.h
build_tools="cmake cmake $cmocka libcmocka-dev /usr/include/openssl/evp.h libssl-dev"
# shellcheck disable=SC2086
if have gcc gcc gcc $build_tools; then
    build_and_test gcc
fi
if [ -n "$quick" ]; then
    exit "$failed"
fi

# shellcheck disable=SC2086
if have mutants gcc gcc python3 python3 $build_tools; then
    begin
    if quietly "$work/mutants.log" python3 "$here/mutants.py" "$work/mutants"; then
        report mutants passed "$(tail -n 1 "$work/mutants.log") by the power cuts, $(took)"
    else
        report mutants FAILED "see $work/mutants.log"
    fi
fi

clang=$(newest_clang)
runtime=$("$clang" --print-runtime-dir 2>/dev/null)
[ -d "$runtime" ] || runtime=clang-runtime
version=${clang#clang}
sanitizers=libclang-rt$version-dev
# shellcheck disable=SC2086
if have clang "$clang" "$clang" "$runtime" "$sanitizers" $build_tools; then
    build_and_test "$clang"
    # The targets run at the same time.
    processors=$(nproc)
    seconds=$((${FUZZ_SECONDS:-60} / (processors < 3 ? processors : 3)))
    declare -A fuzzers
    # shellcheck disable=SC2086
    quietly "$work/fuzz.log" env CC="$clang" cmake $generator -S "$root/firmware/core" -B "$work/fuzz" -DTS_FUZZ=ON &&
        quietly "$work/fuzz.log" cmake --build "$work/fuzz" --parallel 2 --target fuzz_receiver fuzz_image fuzz_codec ||
        report fuzz FAILED "see $work/fuzz.log"
    begin
    for target in receiver image codec; do
        corpus=$here/corpus
        [ $target = receiver ] || corpus=${corpus}_$target
        rm -rf "$work/corpus_$target" && mkdir -p "$work/corpus_$target"
        "$work/fuzz/tests/fuzz_$target" -max_total_time="$seconds" -max_len=4096 -artifact_prefix="$work/" \
            -print_final_stats=1 "$work/corpus_$target" "$corpus" >"$work/fuzz_$target.log" 2>&1 &
        fuzzers[$target]=$!
    done
    for target in receiver image codec; do
        if wait "${fuzzers[$target]}"; then
            report "fuzz $target" passed "$(sed -n 's/^stat::number_of_executed_units: *//p' \
                "$work/fuzz_$target.log") inputs, no finding, $(took)"
        else
            tail -n 40 "$work/fuzz_$target.log" >&2
            report "fuzz $target" FAILED "see $work/fuzz_$target.log; the input is beside it"
        fi
    done
fi

if have xtensa clang-22 clang-22 llvm-mc-22 llvm-22 gcc gcc xtensa-lx106-elf-gcc gcc-xtensa-lx106 \
    xtensa-lx106-elf-ld binutils-xtensa-lx106 /usr/lib/xtensa-lx106-elf/include/string.h picolibc-xtensa-lx106-elf \
    qemu-system-xtensa qemu-system-misc; then
    begin
    if quietly "$work/xtensa.log" bash "$here/xtensa/run.sh" "$work/xtensa"; then
        report xtensa passed "$(grep -c 'byte for byte' "$work/xtensa.log") ABIs equal to the host, $(sed -n \
            's/^streaming *| *\([0-9]*\).*/\1/p' "$work/xtensa.log") bytes of code in a node with streams, $(took)"
    else
        report xtensa FAILED "see $work/xtensa.log"
    fi
fi
exit "$failed"
