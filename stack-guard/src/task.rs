//! Where the kernel keeps the credentials of a task: `src/bpf/task.h`, filled from the kernel's BTF.

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::{Composite, MemberAttr, Struct};

use crate::skel::guard::types::task_layout;

/// The kernel describes itself here (CONFIG_DEBUG_INFO_BTF).
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Offset in bytes of a field, also of one in an unnamed struct or union inside.
fn offset(btf: &Btf<'_>, composite: Composite<'_>, field: &str) -> Option<u32> {
    composite.iter().find_map(|member| {
        let MemberAttr::Normal { offset: bits } = member.attr else {
            return None;
        };
        match member.name {
            Some(name) if name == field => Some(bits / 8),
            Some(name) if !name.is_empty() => None,
            _ => Some(bits / 8 + offset(btf, btf.type_by_id(member.ty)?, field)?),
        }
    })
}

/// The layout of the running kernel; None: it has no BTF, or something is not where the programs expect it.
pub(crate) fn layout() -> Option<task_layout> {
    // libbpf looks elsewhere too, and prints when it finds nothing; but the verifier needs this very one.
    let btf = Btf::from_path(VMLINUX).ok()?;
    let of = |name: &str, field: &str| offset(&btf, btf.type_by_name::<Struct<'_>>(name)?.into(), field);
    // The walk up from a cgroup takes the parent's `self` for the parent.
    if of("cgroup", "self")? != 0 {
        return None;
    }
    Some(task_layout {
        task_tgid: of("task_struct", "tgid")?,
        task_comm: of("task_struct", "comm")?,
        task_cred: of("task_struct", "cred")?,
        task_cgroups: of("task_struct", "cgroups")?,
        cred_uid: of("cred", "uid")?,
        cred_gid: of("cred", "gid")?,
        cred_sgid: of("cred", "sgid")?,
        cred_euid: of("cred", "euid")?,
        cred_egid: of("cred", "egid")?,
        cred_fsgid: of("cred", "fsgid")?,
        cred_user_ns: of("cred", "user_ns")?,
        cred_group_info: of("cred", "group_info")?,
        user_ns_level: of("user_namespace", "level")?,
        group_info_ngroups: of("group_info", "ngroups")?,
        group_info_gid: of("group_info", "gid")?,
        css_set_dfl_cgrp: of("css_set", "dfl_cgrp")?,
        cgroup_kn: of("cgroup", "kn")?,
        cgroup_parent: of("cgroup_subsys_state", "parent")?,
        kernfs_node_id: of("kernfs_node", "id")?,
        pad: 0,
    })
}
