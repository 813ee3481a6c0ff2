//! A planned change between instances of a Cluster.

use super::cluster::Three;
use crate::live::checks::count;
use crate::live::orders::done;

#[test]
fn an_instance_hands_over_to_another_one_and_gets_it_back() {
    let mut three = Three::start();
    let clients = three.clients();
    clients.until_acknowledges(0);
    done(&three.instances[0].member, &["switchover", "--to", "pg-a-2", "--yes"]);
    clients.until_acknowledges(1);
    three.instances[1].member.until_leads();
    for follower in [0, 2] {
        three.instances[follower].member.until_follows();
    }
    assert_eq!(three.cluster()["status"]["currentPrimary"], "pg-a-2");
    three.instances[1].member.until("both are attached", |status| {
        status["database"]["standbys"].as_array().is_some_and(|it| it.len() == 2)
    });
    done(&three.instances[2].member, &["switchover", "--to", "pg-a-1", "--yes"]);
    clients.until_acknowledges(0);
    for follower in [1, 2] {
        three.instances[follower].member.until_follows();
    }
    let acknowledged: usize = (0..3).map(|member| clients.count(member)).sum();
    clients.assert_one_after_the_other(&[0, 1, 0]);
    assert!(count(&three.instances[0].member) as usize >= acknowledged, "{acknowledged}");
    three.assert_sound();
}
