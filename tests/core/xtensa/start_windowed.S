/* Reset and window vectors for qemu-system-xtensa -M sim -cpu dc233c, windowed ABI.
 * Offsets and sequences: Xtensa ISA Reference Manual, windowed register option. */
    .section .reset, "ax"
    .global _reset
    .p2align 2
    j begin
    .p2align 2
vectors_at:
    .4byte _vectors
stack_at:
    .4byte _stack_top
run_at:
    .4byte run
ps_value:
    .4byte 0x40020 /* WOE, UM */
    .p2align 2
_reset:
begin:
    l32r a2, vectors_at
    wsr a2, vecbase
    movi a2, 0
    wsr a2, windowbase
    rsync
    movi a2, 1
    wsr a2, windowstart
    rsync
    l32r a1, stack_at
    l32r a2, ps_value
    wsr a2, ps
    rsync
    movi a0, 0
    l32r a4, run_at
    callx4 a4

    .section .vectors, "ax"
    .global _vectors
    .p2align 11
_vectors:
    /* 0x000: window overflow 4 */
    s32e a0, a5, -16
    s32e a1, a5, -12
    s32e a2, a5, -8
    s32e a3, a5, -4
    rfwo
    .org _vectors + 0x40 /* window underflow 4 */
    l32e a0, a5, -16
    l32e a1, a5, -12
    l32e a2, a5, -8
    l32e a3, a5, -4
    rfwu
    .org _vectors + 0x80 /* window overflow 8 */
    s32e a0, a9, -16
    l32e a0, a1, -12
    s32e a1, a9, -12
    s32e a2, a9, -8
    s32e a3, a9, -4
    s32e a4, a0, -32
    s32e a5, a0, -28
    s32e a6, a0, -24
    s32e a7, a0, -20
    rfwo
    .org _vectors + 0xc0 /* window underflow 8 */
    l32e a0, a9, -16
    l32e a1, a9, -12
    l32e a2, a9, -8
    l32e a7, a1, -12
    l32e a3, a9, -4
    l32e a4, a7, -32
    l32e a5, a7, -28
    l32e a6, a7, -24
    l32e a7, a7, -20
    rfwu
    .org _vectors + 0x100 /* window overflow 12 */
    s32e a0, a13, -16
    l32e a0, a1, -12
    s32e a1, a13, -12
    s32e a2, a13, -8
    s32e a3, a13, -4
    s32e a4, a0, -48
    s32e a5, a0, -44
    s32e a6, a0, -40
    s32e a7, a0, -36
    s32e a8, a0, -32
    s32e a9, a0, -28
    s32e a10, a0, -24
    s32e a11, a0, -20
    rfwo
    .org _vectors + 0x140 /* window underflow 12 */
    l32e a0, a13, -16
    l32e a1, a13, -12
    l32e a2, a13, -8
    l32e a11, a1, -12
    l32e a3, a13, -4
    l32e a4, a11, -48
    l32e a5, a11, -44
    l32e a6, a11, -40
    l32e a7, a11, -36
    l32e a8, a11, -32
    l32e a9, a11, -28
    l32e a10, a11, -24
    l32e a11, a11, -20
    rfwu
    /* Exceptions. movsp raises one (cause 5) when the caller's registers lie on the stack: they are
     * fetched by the underflow handler of the caller's call size, as if a return had missed them.
     * Any other ends the run with code 99. */
    .org _vectors + 0x300
    j exception
    .org _vectors + 0x340
    j exception
    .org _vectors + 0x400
exception:
    wsr.excsave1 a0
    rsr.exccause a0
    bnei a0, 5, fatal
    rsr.windowbase a0
    rotw -1 /* what was a0 is a4; a0 to a3 are free */
    rsr a2, ps
    extui a3, a2, 8, 4
    slli a3, a3, 8
    xor a2, a2, a3
    slli a3, a4, 8
    or a2, a2, a3
    wsr a2, ps
    rsr.excsave1 a4
    rsync
    bbsi a4, 31, more
    j _vectors + 0x40
more:
    rotw -1
    bbsi a8, 30, most
    j _vectors + 0xc0
most:
    rotw -1
    j _vectors + 0x140
fatal:
    movi a2, 1
    movi a3, 99
    .byte 0x00, 0x51, 0x00 /* simcall */
