//! What is refused costs nobody anything, and who makes himself be looked at all the time is looked at now and then.

use std::time::Duration;

use stackmap::{TenantName, Vlan};

use super::history::Tampering;
use super::{Game, history, tamper};
use crate::control::OpError;
use crate::kernel::KernelEvent;
use crate::model::*;
use crate::owner::{PutHow, RestoreHow};
use crate::store::{Copied, Desired, Revision, Snapshot};

/// A game with two tenants, on VLANs 2 and 3, played in virtual time.
fn play<F: Future<Output = ()>>(check: impl FnOnce(Game, Tenant) -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut game = Game::new();
        game.supervise().await.unwrap();
        let mut made = Vec::new();
        for (name, vlan) in [("acme", 2), ("other", 3)] {
            let request = history::request(name, Some(vlan), &["192.168.1.1/24"], &[]);
            made.push(game.handle.add_tenant(request, false).await.unwrap().tenant);
        }
        check(game, made.swap_remove(0)).await;
    });
}

#[test]
fn a_replacement_that_is_refused_leaves_the_old_one() {
    play(|game, acme| async move {
        let before = game.shared.stored();
        let steps = game.shared.machine().steps.clone();
        let taken = DeclaredTenant { vlan: Vlan::new(3).ok(), ..DeclaredTenant::from(&acme) };
        for dry_run in [true, false] {
            let how = PutHow { dry_run, replace: true };
            let answer = game.handle.put(acme.name.clone(), taken.clone(), how).await;
            assert!(matches!(&answer, Err(OpError::Conflict { field, .. }) if field == "vlan"), "{answer:?}");
            assert_eq!(game.shared.stored(), before);
            assert_eq!(game.shared.machine().steps, steps, "the machine was touched");
        }
        // What it has itself is free for its successor.
        let free = DeclaredTenant { vlan: Vlan::new(4).ok(), ..DeclaredTenant::from(&acme) };
        let put = game.handle.put(acme.name.clone(), free, PutHow { dry_run: false, replace: true }).await.unwrap();
        assert_eq!((put.outcome, put.tenant.vlan, put.tenant.gid), (Outcome::Replaced, Vlan::new(4).ok(), acme.gid));
    });
}

#[test]
fn rows_of_a_backup_pass_the_rules_of_a_put() {
    play(|game, acme| async move {
        let before = game.shared.stored();
        let backup = |tenant: &Tenant| {
            let mut rows: Vec<Desired> = before.values().cloned().collect();
            rows.retain(|row| row.tenant.name != tenant.name);
            rows.push(Desired::new(tenant.clone()));
            Copied { home: None, snapshot: Snapshot { revision: Revision(1), rows, unreadable: Vec::new() } }
        };
        let name: TenantName = "new".parse().unwrap();
        let new = Tenant {
            name,
            vlan: Vlan::new(7).ok(),
            stack: stackmap::StackIndex(7),
            gid: stackmap::GidRange::new(20 << 16).unwrap(),
            device: "dev7".into(),
            ..acme.clone()
        };
        let share = ShareMount { directory: "/srv/a".into(), target: "/etc".into(), read_only: false };
        let nested = |dir: &str| {
            let target = crate::shares::target_of(std::path::Path::new(dir)).unwrap();
            ShareMount { directory: dir.into(), target, read_only: true }
        };
        let service = serde_json::json!({"name": "s", "command": ["/bin/true"]});
        let service: ServiceRequest = serde_json::from_value(service).unwrap();
        let bad: [(&str, Tenant); 6] = [
            ("new.device", Tenant { device: "lo".into(), ..new.clone() }),
            ("new.addresses", Tenant { addresses: Vec::new(), ..new.clone() }),
            ("new.generation", Tenant { generation: u64::MAX, ..new.clone() }),
            ("new.shares", Tenant { shares: vec![share], ..new.clone() }),
            ("new.shares[1]", Tenant { shares: vec![nested("/srv/b"), nested("/srv/b/c")], ..new.clone() }),
            ("new.services", Tenant { services: vec![service.clone(), service], ..new.clone() }),
        ];
        for (field, tenant) in bad {
            let answer = game.handle.restore(backup(&tenant), RestoreHow::default()).await;
            assert!(matches!(&answer, Err(OpError::Invalid(refused)) if refused.field == field), "{field}: {answer:?}");
            assert_eq!(game.shared.stored(), before, "{field}");
        }
        // Of another instance, with its Ethernet address: it gets ours.
        let strange = Tenant { mac: acme.mac, ..new };
        let restored = game.handle.restore(backup(&strange), RestoreHow::default()).await.unwrap();
        assert_eq!(restored.added, ["new"]);
        let made = &game.shared.stored()[&strange.name];
        assert_eq!(made.tenant.mac, Some(super::ends(made.tenant.segment().unwrap()).0));
    });
}

#[test]
fn an_init_that_ends_again_and_again_is_started_now_and_then() {
    play(|game, acme| async move {
        let launches = || game.shared.machine().steps[&acme.name].iter().filter(|step| *step == "stack").count();
        let before = launches();
        for _ in 0..600 {
            if let Some(pid) = tamper(&game.shared, &acme.name, Tampering::KillInit) {
                game.ended.send(KernelEvent::InitEnded { tenant: acme.name.clone(), pid }).await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let launched = launches() - before;
        // A minute: the first twenty, then one every three seconds, and what the clock brings.
        assert!((20..=50).contains(&launched), "{launched}");
    });
}
