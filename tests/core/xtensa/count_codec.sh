#!/usr/bin/env bash
# Counts the instructions that codec 1 takes for each tensor of a file, on an emulated lx106 (gcc -Os, call0).
#
# usage: count_codec.sh BOUNDARIES_BIN [WORK_DIR]      the file: see codec_count.c
# prints for each: bytes, coded bytes, instructions of encoding, of decoding. Packages: as run.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
core=$here/../../../firmware/core
work=${2:-$here/../../../build/codec-count}
mkdir -p "$work"
cp "$1" "$work/boundaries.bin"
cd "$work"
rm -f ./*.o
lx106="xtensa-lx106-elf-gcc -mtext-section-literals"
for source in "$core"/src/*.c "$here/codec_count.c" "$here/libc.c"; do
    case $source in */crc_fast.c) continue ;; esac
    $lx106 -std=gnu11 -Os -ffreestanding -fno-builtin -ffunction-sections -fdata-sections \
        -isystem /usr/lib/xtensa-lx106-elf/include -I"$core/include" -I"$core/src" -c "$source" \
        -o "$(basename "$source" .c).o"
done
$lx106 -c "$here/start_call0.S" -o start.o
xtensa-lx106-elf-objcopy -I binary -O elf32-xtensa-le -B xtensa --rename-section .data=.rodata boundaries.bin data.o
xtensa-lx106-elf-ld --no-warn-rwx-segments -z noexecstack --gc-sections -e _reset -T "$here/call0.ld" -o count.elf ./*.o \
    "$($lx106 -print-libgcc-file-name)"
timeout 300 qemu-system-xtensa -M sim -cpu lx106 -semihosting -display none -monitor none -serial stdio \
    -icount shift=7 -kernel count.elf </dev/null >ticks.txt
awk '{ printf "%d %d %d %d\n", $1, $2, $3 / 5.12, $4 / 5.12 }' ticks.txt
