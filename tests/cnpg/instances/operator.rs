//! Somebody has CloudNativePG change who acts, without the agents.

use serde_json::json;

use super::super::sites::site::wait;
use super::cluster::Field;
use crate::live::checks::count;
use crate::live::cluster::until;

/// What `kubectl cnpg promote` does.
#[test]
fn who_is_promoted_without_the_agents_writes_beside_nobody_and_one_leads_in_the_end() {
    let mut field = Field::one();
    let clients = field.clients();
    clients.until_acknowledges(0);
    let status = json!({
        "targetPrimary": "pg-a-2", "targetPrimaryTimestamp": "2026-08-21T10:00:00.000000Z",
        "phase": "Switchover in progress", "phaseReason": "Switching over to pg-a-2",
    });
    wait(field.sites[0].double.patch_status("pg-a", status)).unwrap();
    let leader = until("one leads, the others follow", || {
        let said: Vec<_> = field.sites[0].instances.iter().map(|it| it.member.status()).collect();
        let are = |state: &str| said.iter().filter(|it| it["state"] == state).count();
        if (are("primary_healthy"), are("replica_watching")) == (1, 2)
            && said.iter().all(|it| it["epoch"] != 1)
        {
            return Ok(said.iter().position(|it| it["state"] == "primary_healthy").unwrap());
        }
        Err(format!("{said:#?}\n{}", field.told()))
    });
    clients.until_acknowledges(leader);
    let acknowledged: usize = (0..3).map(|member| clients.count(member)).sum();
    let rows = count(&field.sites[0].instances[leader].member) as usize;
    clients.assert_one_after_the_other(&[0, leader]);
    assert!(rows >= acknowledged, "{rows} of {acknowledged}");
    field.assert_sound();
}
