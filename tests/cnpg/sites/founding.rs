//! The first lease, and what is said then.

use serde_json::json;

use super::site::Two;
use crate::live::orders::done;

#[test]
fn the_site_whose_cluster_is_the_primary_takes_the_first_lease() {
    let mut two = Two::start();
    let said = two.a.member.status();
    assert_eq!(said["epoch"], 1, "{said:#}");
    assert_eq!(said["lease"]["holder"], "pg-a", "{said:#}");
    assert_eq!(said["alarms"], json!([]), "{said:#}");
    let said = two.b.member.until_follows();
    assert_eq!(said["is_primary"], false, "{said:#}");
    assert!(!two.b.member.is_writable());
    let shown = done(&two.b.member, &["status"]);
    for words in ["pg-a", "pg-b", "primary_healthy", "replica_watching"] {
        assert!(shown.contains(words), "{words} is not in\n{shown}");
    }
    for site in [&two.a, &two.b] {
        assert_eq!(site.fence(), None, "{:#}", site.cluster());
        assert_eq!(site.member.get("/startup").unwrap().0, 200);
    }
    two.assert_sound();
}
