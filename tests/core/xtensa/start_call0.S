/* Reset for qemu-system-xtensa -M sim -cpu lx106, call0 ABI. */
    .section .reset, "ax"
    .global _reset
_reset:
    j begin
    .p2align 2
stack_at:
    .word _stack_top
run_at:
    .word run
    .p2align 2
begin:
    l32r a1, stack_at
    l32r a0, run_at
    callx0 a0 /* does not return: it ends the run */
