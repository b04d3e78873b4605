"""Which words of /proc/cpuinfo must be on the target of a live move."""

from __future__ import annotations

from transship.controller.migration.cpu_features import NOT_FOR_PROGRAMS, usable_by_programs

INSTRUCTIONS = """
    fpu cx8 cmov mmx fxsr sse sse2 syscall nx mmxext rdtscp lm tsc constant_tsc nonstop_tsc pni
    ssse3 sse4_1 sse4_2 sse4a fma fma4 xop tbm cx16 movbe popcnt lzcnt abm aes pclmulqdq vaes
    vpclmulqdq sha_ni sha512 sm3 sm4 gfni xsave xsaveopt xsavec xgetbv1 xsaves avx avx2 avx512f
    avx512vl avx_vnni avx512_fp16 amx_tile amx_int8 f16c rdrand rdseed adx bmi1 bmi2 lahf_lm
    3dnowprefetch clflush clflushopt clwb clzero rdpru rtm hle tsxldtrk fsgsbase erms fsrm rdpid
    serialize pku ospke waitpkg mwaitx ring3mwait movdiri movdir64b enqcmd cldemote ptwrite lam
    la57 pdpe1gb mpx cpuid_fault sgx lwp
"""


def test_what_a_program_may_have_found_counts() -> None:
    words = frozenset(INSTRUCTIONS.split())
    assert usable_by_programs(words, machine="x86_64") == words


def test_an_unknown_flag_counts() -> None:
    assert usable_by_programs(["pti", "a_new_word"], machine="x86_64") == {"a_new_word"}


def test_what_kernel_firmware_and_hypervisor_use_does_not_count() -> None:
    words = """
        pti ibrs ibrs_enhanced ibpb stibp ssbd md_clear flush_l1d arch_capabilities user_shstk
        split_lock_detect vmx svm ept ept_ad vpid hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req
        dtherm pln pts ida arat hypervisor x2apic
    """
    assert usable_by_programs(words.split(), machine="x86_64") == frozenset()


def test_of_an_arm_cpu_every_word_counts() -> None:
    assert usable_by_programs(NOT_FOR_PROGRAMS, machine="aarch64") == NOT_FOR_PROGRAMS
