#!/usr/bin/env bash
# The checks of firmware/main without ESP-IDF: every file compiled for Xtensa against idf/idf.h, for each environment
# and both ends of the range of ESP-IDF releases; the ports' tests and the whole application on this machine, under ASan
# and UBSan.
#
# usage: run.sh [--quick | --packages] [WORK_DIR]
#   --quick      what runs on this machine only
#   --packages   prints the Debian packages that everything needs, one per line
#
# A part whose tools are missing is left out and named; with TINYSPLIT_REQUIRE_ALL=1 that is a failure.
# idf/against_idf.py, for whoever has an ESP-IDF, holds idf.h and firmware/main against the real headers.
set -u

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
quick=
work=
for argument in "$@"; do
    case $argument in
    --quick) quick=1 ;;
    --packages)
        printf '%s\n' clang-22 cmake gcc libc6-dev libcjson-dev libcmocka-dev libmbedtls-dev libmosquitto-dev mosquitto ninja-build picolibc-xtensa-lx106-elf
        exit 0
        ;;
    -*)
        echo "usage: $0 [--quick | --packages] [WORK_DIR]" >&2
        exit 2
        ;;
    *) work=$argument ;;
    esac
done
work=${work:-$root/build/firmware-checks}
mkdir -p "$work" || exit 1
python=${PYTHON:-python3}
libc=/usr/lib/xtensa-lx106-elf/include
failed=0

report() { # part, verdict, words
    printf '%-14s %-8s %s\n' "$1" "$2" "$3"
    [ "$2" != FAILED ] || failed=1
}

absent() { # part, packages
    if [ "${TINYSPLIT_REQUIRE_ALL:-}" = 1 ]; then
        report "$1" FAILED "tools are missing: apt-get install $2"
    else
        report "$1" "left out" "tools are missing: apt-get install $2"
    fi
}

ports() {
    local log=$work/ports.log generator=
    ! command -v ninja >/dev/null || generator="-G Ninja"
    # shellcheck disable=SC2086
    if { cmake $generator -DPython3_EXECUTABLE="$(command -v "$python")" -S "$here" -B "$work/ports" &&
        cmake --build "$work/ports" --parallel 2 &&
        ctest --test-dir "$work/ports" --parallel 2 --output-on-failure; } >"$log" 2>&1; then
        report ports passed "$(grep -c Passed "$log") test programs under ASan and UBSan, -Werror"
    else
        tail -n 40 "$log" >&2
        report ports FAILED "see $log"
        return 1
    fi
}

# GCC for the ESP32-S3 has 32-bit integers as long, clang as int: format strings tell them apart.
xtensa=(clang-22 --target=xtensa-none-elf -fsyntax-only -D_GNU_SOURCE -Wall -Wextra -Werror -isystem "$libc")
xtensa+=(-U__INT32_TYPE__ -D__INT32_TYPE__=long -U__UINT32_TYPE__ "-D__UINT32_TYPE__=long unsigned")

# The whole application on this machine, driven from Python as a board is.
board() {
    local log=$work/board.log
    if (cd "$root" && TINYSPLIT_FIRMWARE_BOARD=$work/ports/firmware_board "$python" -m pytest -q \
        -n 3 --dist worksteal -p no:cacheprovider tests/firmware/test_board.py tests/firmware/test_board_mqtt.py) >"$log" 2>&1; then
        report board passed "$(tail -n 1 "$log" | sed 's/ in .*//') on the whole application, ASan and UBSan"
    else
        tail -n 60 "$log" >&2
        report board FAILED "see $log"
    fi
}

compile_all() { # environment, minor release of ESP-IDF; its stubs are there
    local include=(-DTEST_IDF_MINOR="$2" "-I$work/$1" "-I$root/firmware/main" "-I$root/firmware/core/include")
    "${xtensa[@]}" -std=gnu11 "${include[@]}" "$root"/firmware/main/*.c &&
        "${xtensa[@]}" -xc++ -std=gnu++17 "${include[@]}" "$root"/firmware/main/*.cpp
}

compile() {
    local overlay minor job jobs files code=0
    files=("$root"/firmware/main/*.c "$root"/firmware/main/*.cpp)
    for overlay in psram nopsram qemu; do
        rm -rf "${work:?}/$overlay"
        "$python" "$here/idf/split.py" "$work/$overlay" "$root/sdkconfig.$overlay" || return 1
        jobs=()
        for minor in 3 5; do
            compile_all "$overlay" "$minor" &
            jobs+=($!)
        done
        for job in "${jobs[@]}"; do
            wait "$job" || code=1
        done
    done
    echo "$((6 * ${#files[@]}))" >"$work/compilations"
    return "$code"
}

if command -v gcc >/dev/null && command -v cmake >/dev/null && [ -e /usr/include/cmocka.h ] &&
    [ -e /usr/include/cjson/cJSON.h ] && [ -e /usr/include/mbedtls/ecp.h ] && [ -e /usr/include/mosquitto.h ]; then
    if ! ports; then
        : # an older program would tell nothing
    elif "$python" -c 'import pytest, xdist, host' 2>/dev/null; then
        board
    elif [ "${TINYSPLIT_REQUIRE_ALL:-}" = 1 ]; then
        report board FAILED "$python has no tinysplit, pytest and pytest-xdist: PYTHON=.venv/bin/python"
    else
        report board "left out" "$python has no tinysplit, pytest and pytest-xdist: PYTHON=.venv/bin/python"
    fi
else
    absent ports "cmake gcc libcjson-dev libcmocka-dev libmbedtls-dev libmosquitto-dev"
fi
if [ -z "$quick" ]; then
    if command -v clang-22 >/dev/null && [ -e "$libc/string.h" ]; then
        if compile >"$work/compile.log" 2>&1; then
            report compile passed "$(cat "$work/compilations") compilations of firmware/main for Xtensa, C11 and C++17, -Werror"
        else
            tail -n 40 "$work/compile.log" >&2
            report compile FAILED "see $work/compile.log"
        fi
    else
        absent compile "clang-22 picolibc-xtensa-lx106-elf"
    fi
fi
exit "$failed"
