#!/usr/bin/env bash
# Compiles firmware/core for Xtensa, reports its size per module, runs the vectors on
# qemu-system-xtensa under both ABIs and compares the print with the host's, byte for byte.
#
# Debian packages: clang-22 llvm-22 gcc gcc-xtensa-lx106 binutils-xtensa-lx106
#                  picolibc-xtensa-lx106-elf qemu-system-misc
#
# usage: run.sh [WORK_DIR]       LIMIT=bytes (16384) fails if gcc's .text of a node with streams is above it, in the
#                                windowed ABI, which is that of the ESP32-S3
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
core=$root/firmware/core
work=${1:-$root/build/core-xtensa}
limit=${LIMIT:-16384}

missing=
for tool in clang-22 llvm-mc-22 gcc xtensa-lx106-elf-gcc xtensa-lx106-elf-ld qemu-system-xtensa; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
done
headers=/usr/lib/xtensa-lx106-elf/include
[ -e "$headers/string.h" ] || missing="$missing picolibc-xtensa-lx106-elf"
if [ -n "$missing" ]; then
    echo "cannot run the Xtensa lane, missing:$missing" >&2
    echo "apt-get install clang-22 llvm-22 gcc gcc-xtensa-lx106 binutils-xtensa-lx106 picolibc-xtensa-lx106-elf qemu-system-misc" >&2
    exit 1
fi

mkdir -p "$work"
cd "$work"
rm -f ./*.o
cp "$root/tests/vectors/link.txt" link.txt

warnings="-Wall -Wextra -Wconversion -Wshadow -Werror"
common="-std=c11 -Os -ffreestanding -ffunction-sections -fdata-sections -isystem $headers -I$core/include -I$core/src -I$root/tests/core"
# The options of an ESP32-S3's LX7 that clang knows; mul32high is left out because dc233c has none.
features=
attributes=
for f in windowed density mul16 mul32 div32 nsa sext minmax clamps loop bool mac16 rvector exception; do
    features="$features -Xclang -target-feature -Xclang +$f"
    attributes="$attributes${attributes:+,}+$f"
done
# clang-22 puts literals behind whatever came before, without alignment: its own assembler then
# refuses them, or the linker does. So its assembly text gets the alignment here.
s3() { # options, source; object is the last one
    object=${*: -1}
    clang-22 --target=xtensa-none-elf $features "${@:1:$#-1}" -S -o "$object.s"
    sed -i 's/^\t\.literal_position/\t.p2align\t2\n&/' "$object.s"
    llvm-mc-22 -triple=xtensa -mattr="$attributes" -filetype=obj "$object.s" -o "$object"
}
lx106="xtensa-lx106-elf-gcc -mtext-section-literals"
# What the same gcc makes for the windowed ABI, to know its size: this assembler does not have the
# four instructions of windows, so each is replaced by one that is as long. Not to be run.
windowed() { # options, source; object is the last one
    object=${*: -1}
    $lx106 -mabi=windowed "${@:1:$#-1}" -S -o - |
        sed -E 's/^\tentry\t.*/\taddi\tsp, sp, -32/; s/^\tretw/\tret/; s/^\tcall(x?)8/\tcall\10/' >"$object.s"
    xtensa-lx106-elf-as --text-section-literals "$object.s" -o "$object"
}

# The link; what else is in firmware/core is for those who use it.
modules="crc frame inbox message node outbox phase session stream transfer types"
optional=
for source in "$core"/src/*.c; do
    module=$(basename "$source" .c)
    case $module in
    crc_fast) ;; # hosts only
    *) case " $modules " in *" $module "*) ;; *) optional="$optional $module" ;; esac ;;
    esac
    windowed $common $warnings "$source" "windowed_$module.o"
    s3 $common $warnings "$source" "s3_$module.o"
    $lx106 $common $warnings -c "$source" -o "lx106_$module.o"
done
for source in "$root/tests/core/vectors.c" "$here/bare.c" "$here/libc.c"; do
    name=$(basename "$source" .c)
    s3 $common -fno-builtin "$source" "s3_test_$name.o"
    $lx106 $common -fno-builtin -c "$source" -o "lx106_test_$name.o"
done
llvm-mc-22 -triple=xtensa -mattr="$attributes" -filetype=obj "$here/start_windowed.S" -o s3_test_start.o
$lx106 -c "$here/start_call0.S" -o lx106_test_start.o
xtensa-lx106-elf-objcopy -I binary -O elf32-xtensa-le -B xtensa --rename-section .data=.rodata link.txt data.o 2>/dev/null ||
    xtensa-lx106-elf-ld -r -b binary -o data.o link.txt

# One row per module: what the compilers made of it at -Os, read-only data counted as text.
size_of() { xtensa-lx106-elf-size -B "$1" | awk 'NR == 2 { print $1, $2, $3 }'; }
sizes_of() { echo "$(size_of "windowed_$1.o") $(size_of "lx106_$1.o") $(size_of "s3_$1.o")"; }
printf '%-10s | %21s | %21s | %21s\n' module 'gcc, windowed' 'gcc lx106, call0' 'clang S3, windowed'
row() { # name, nine numbers
    printf '%-10s | %7s %6s %6s | %7s %6s %6s | %7s %6s %6s\n' "$@"
}
row '' text data bss text data bss text data bss
total="0 0 0 0 0 0 0 0 0"
for module in $modules; do
    sizes=$(sizes_of "$module")
    # shellcheck disable=SC2086
    row "$module" $sizes
    # shellcheck disable=SC2086
    total=$(echo $total $sizes | awk '{ for (i = 1; i <= 9; i++) printf "%d ", $i + $(i + 9) }')
done
# shellcheck disable=SC2086
row whole $total
for module in $optional; do
    # shellcheck disable=SC2046
    row "$module" $(sizes_of "$module")
done
# What a linker that collects sections keeps for a node on a datagram link with the ROM's checksums, and
# for one that also has streams and its own checksums.
link() { # row, further symbols
    local name=$1 lane module objects
    shift
    for lane in windowed lx106 s3; do
        objects=
        for module in $modules $optional; do
            objects="$objects ${lane}_$module.o"
        done
        # shellcheck disable=SC2086
        xtensa-lx106-elf-ld -r --gc-sections -e ts_node_poll -u ts_node_init -u ts_node_infer -u ts_node_cancel \
            -u ts_node_invoked -u ts_node_on_datagram "$@" -o "${lane}_$name.o" $objects
    done
    # shellcheck disable=SC2046
    row "$name" $(sizes_of "$name")
    text=$(size_of "windowed_$name.o")
    text=${text%% *}
    rm -f ./*_"$name".o
}
link linked
link streaming -u ts_stream_init -u ts_stream_read -u ts_cobs_encode -u ts_crc16_small -u ts_crc32_small

gcc -std=c11 -O1 -I"$core/include" -I"$core/src" -I"$root/tests/core" "$core"/src/*.c \
    "$root/tests/core/vectors.c" "$root/tests/core/print_vectors.c" -o print_vectors
./print_vectors link.txt >host.txt

run() { # name, cpu, prefix of the objects, linker script, libraries
    xtensa-lx106-elf-ld --no-warn-rwx-segments -z noexecstack -T "$here/$4" -o "$1.elf" "$3"_*.o data.o "${@:5}"
    status=0
    timeout 40 qemu-system-xtensa -M sim -cpu "$2" -semihosting -display none -monitor none -serial stdio \
        -kernel "$1.elf" >"$1.txt" </dev/null || status=$?
    if [ "$status" -ne 0 ] || ! cmp host.txt "$1.txt"; then
        echo "FAILED: $1 on $2 (exit $status) differs from the host: $work/$1.txt, $work/host.txt" >&2
        exit 1
    fi
    echo "$1 on qemu $2: $(wc -l <"$1.txt") vectors, equal to the host's print byte for byte"
}
run lx106 lx106 lx106 call0.ld "$($lx106 -print-libgcc-file-name)" # it has no division
run s3 dc233c s3 windowed.ld

if [ "$text" -gt "$limit" ]; then
    echo "FAILED: a node with streams has $text bytes of text, the limit is $limit" >&2
    exit 1
fi
