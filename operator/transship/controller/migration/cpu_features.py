"""CPU features: which flags of /proc/cpuinfo a program can depend on.

A program that has detected an instruction uses it after a move too, so the target's CPU must have
it. Many flags name what only the kernel, the firmware or a hypervisor can use. They change with
those on the same CPU, and must not keep a container from moving. Only flags that are known to be
such are left out: an unknown one may be an instruction.
"""

from __future__ import annotations

from collections.abc import Iterable

X86 = frozenset({"x86_64", "i686"})

_MITIGATIONS = """
    arch_capabilities flush_l1d ibpb ibpb_support ibrs ibrs_enhanced kaiser md_clear pti retpoline
    spec_ctrl ssbd stibp virt_ssbd
"""
_VIRTUALIZATION = """
    avic debug_swap decodeassists ept ept_ad flexpriority flushbyasid hypervisor lbrv npt nrip_save
    pausefilter pfthreshold sev sev_es sev_snp skinit sme smx svm svm_lock svsm tdx_guest tme
    tpr_shadow tsc_scale v_spec_ctrl v_vmsave_vmload vgif vmcb_clean vmmcall vmx vnmi vpid x2avic
"""
_POWER_AND_HEAT = """
    acc_power acpi arat cpb cppc dtherm epb est hfi hw_pstate hwp hwp_act_window hwp_epp hwp_notify
    hwp_pkg_req ida pbe pln proc_feedback pts rapl tm tm2
"""
_TRACING_AND_COUNTERS = """
    amd_lbr_pmc_freeze amd_lbr_v2 aperfmperf arch_lbr arch_perfmon bpext brs bts ds_cpl dtes64 dts
    ibs irperf pdcm pebs perfctr_core perfctr_l2 perfctr_llc perfctr_nb perfmon_v2 ptsc sdbg
"""
_SHARES_OF_CACHE_AND_BANDWIDTH = """
    bmec cat_l2 cat_l3 cdp_l2 cdp_l3 cqm cqm_llc cqm_mbm_local cqm_mbm_total cqm_occup_llc mba rdt_a
    smba
"""
_KERNEL_MODE = """
    amd_dcm amd_ppin apic bus_lock_detect cid cmp_legacy cr8_legacy dca extapic extd_apicid fred ht
    ibt intel_ppin invpcid invpcid_single mca mce mtrr nodeid_msr nonstop_tsc_s3 osvw overflow_recov
    pat pcid pconfig rep_good sgx_lc smap smca smep split_lock_detect ss succor tce tsc_adjust
    tsc_deadline_timer tsc_known_freq tsc_reliable umip up wbnoinvd wdt x2apic xtpr
"""
# Off unless a program asks its kernel for it. CRIU restores such a program only where it exists.
_SHADOW_STACKS = "user_shstk"

NOT_FOR_PROGRAMS = frozenset(
    word
    for words in (
        _MITIGATIONS,
        _VIRTUALIZATION,
        _POWER_AND_HEAT,
        _TRACING_AND_COUNTERS,
        _SHARES_OF_CACHE_AND_BANDWIDTH,
        _KERNEL_MODE,
        _SHADOW_STACKS,
    )
    for word in words.split()
)


def usable_by_programs(words: Iterable[str], *, machine: str) -> frozenset[str]:
    """The flags of a CPU that must be on the target.

    On other machines than x86 these are all: ARM's are what the kernel offers to programs (HWCAP).
    """
    flags = frozenset(words)
    return flags - NOT_FOR_PROGRAMS if machine in X86 else flags
