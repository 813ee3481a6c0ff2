//! What has to be true of a Cluster before an agent leads it, and what had better be.

use super::cluster::{Cluster, Replica};
use super::mark::Fence;
use super::us::Us;
use super::version::{Probe, Version};

/// Something about the Cluster that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// Safety rests on it: the agent does not change the role of such a site.
    Refusal(String),
    /// It costs time or comfort.
    Warning(String),
}

impl Finding {
    fn refuse(what: impl Into<String>) -> Self {
        Self::Refusal(what.into())
    }

    fn warn(what: impl Into<String>) -> Self {
        Self::Warning(what.into())
    }
}

/// The oldest CloudNativePG with tokens.
const OLDEST: Version = Version::new(1, 24, 0);

/// Starts a primary's data before it has its own lease.
const STARTS_TOO_EARLY: Version = Version::new(1, 30, 0);

/// The oldest ones that keep the demotion token through a transition: of this line, and of the one before it.
const KEEPS_TOKENS: Version = Version::new(1, 29, 2);
const KEPT_TOKENS: Version = Version::new(1, 28, 4);

/// A stop that takes longer is ended by the agent anyway.
const LONGEST_SWITCHOVER_DELAY: i64 = 30;

/// A stop of a busy server takes that long, and one that is cut short is no clean end.
const SHORTEST_SWITCHOVER_DELAY: i64 = 10;

/// The agents have taken over by then, or cannot for a reason that the operator does not see.
const SHORTEST_FAILOVER_DELAY: i64 = 3600;

/// CloudNativePG's own defaults, in seconds.
const SMART_SHUTDOWN_TIMEOUT: i64 = 180;
const SWITCHOVER_DELAY: i64 = 3600;
const FAILOVER_DELAY: i64 = 0;

/// Everything there is to say about the Cluster that is ours.
pub(super) fn audit(cluster: &Cluster, us: &Us, probe: &Probe) -> Vec<Finding> {
    let mut findings = topology(cluster, us);
    findings.extend(versions(probe));
    findings.extend(settings(cluster));
    findings.extend(of_instances(cluster, us, probe));
    if Fence::of(cluster, us).unreadable {
        findings.push(Finding::warn(
            "annotation cnpg.io/fencedInstances is no list of names: CloudNativePG takes it for no fence, and \
             the agent will write over it; whoever meant it should write [\"*\"]",
        ));
    }
    findings
}

/// Why the agent must not change the role of this site, if so.
pub(super) fn refusal(cluster: &Cluster, us: &Us) -> Option<String> {
    topology(cluster, us).into_iter().find_map(|finding| match finding {
        Finding::Refusal(why) => Some(why),
        Finding::Warning(_) => None,
    })
}

fn topology(cluster: &Cluster, us: &Us) -> Vec<Finding> {
    let mut findings = Vec::new();
    if cluster.metadata.deletion_timestamp.is_some() {
        findings.push(Finding::refuse("the Cluster is being deleted"));
    }
    if cluster.spec.instances != 1 && us.instance.is_none() {
        findings.push(Finding::refuse(format!(
            "spec.instances is {}: others could be promoted in it without the agent; make every instance a \
             member (database.cnpg.instance, docs/cnpg/instances.md)",
            cluster.spec.instances
        )));
    }
    findings.extend(elsewhere(cluster, us));
    let Some(replica) = &cluster.spec.replica else {
        if us.instance.is_some() {
            // One site: its instances take over from one another.
            return findings;
        }
        findings.push(Finding::refuse(
            "there is no spec.replica: the site can be neither demoted nor promoted; set self, primary and \
             source",
        ));
        return findings;
    };
    findings.extend(names(cluster, replica, us));
    if replica.min_apply_delay.as_deref().is_some_and(|delay| !is_zero(delay)) {
        findings.push(Finding::refuse(
            "spec.replica.minApplyDelay is set: the site is always behind, and CloudNativePG refuses a \
             promotion token with it; remove it",
        ));
    }
    findings
}

/// An instance that says that it stands in another site than its Cluster is.
fn elsewhere(cluster: &Cluster, us: &Us) -> Option<Finding> {
    us.instance.as_ref()?;
    let (ours, site) = (us.site.as_ref()?, cluster.site());
    (ours.to_string() != site).then(|| {
        Finding::refuse(format!(
            "site is \"{ours}\", but the Cluster is called {site:?} among the sites (spec.replica.self, else its \
             name): instances of one site would take each other for another one; make them equal"
        ))
    })
}

fn names(cluster: &Cluster, replica: &Replica, us: &Us) -> Vec<Finding> {
    let mut findings = Vec::new();
    if replica.enabled.is_some() {
        findings.push(Finding::refuse(
            "spec.replica.enabled is set: it decides instead of spec.replica.primary, and CloudNativePG \
             refuses both; remove it",
        ));
    }
    let site = cluster.site();
    if us.instance.is_none() && site != us.member.as_str() {
        let member = &us.member;
        findings.push(Finding::refuse(format!(
            "member is {member}, but the site is called {site:?} (spec.replica.self, else the Cluster's \
             name): other sites would be told of a primary they do not know; make them equal"
        )));
    }
    if cluster.spec.external_clusters.is_empty() {
        findings.push(Finding::refuse(
            "there is no spec.externalClusters: the site cannot follow another one; list all sites there, \
             also this one",
        ));
        return findings;
    }
    let primary = replica.primary.as_deref().unwrap_or_default();
    let roles = [
        ("self", site),
        ("spec.replica.primary", primary),
        ("spec.replica.source", &replica.source),
    ];
    for (what, name) in roles.into_iter().filter(|(_, name)| cluster.external(name).is_none()) {
        findings.push(Finding::refuse(format!(
            "{what} is {name:?}, which is not in spec.externalClusters: CloudNativePG takes no change then; \
             add it"
        )));
    }
    findings.extend(cluster.spec.external_clusters.iter().filter_map(|external| {
        let called = external.connection_parameters.get("application_name")?;
        let wrong = external.name != site && called != site;
        wrong.then(|| {
            Finding::warn(format!(
                "spec.externalClusters {:?} has application_name {called:?}: the other site knows this one \
                 by it; make it {site:?}",
                external.name
            ))
        })
    }));
    findings
}

/// Whether other members are told of the host that other sites know. An instance has its own, inside its site.
pub(super) fn advertised(cluster: &Cluster, us: &Us, host: &str) -> Option<Finding> {
    if us.instance.is_some() {
        return None;
    }
    let (known, _) = cluster.external(cluster.site())?.place()?;
    (known != host).then(|| {
        Finding::warn(format!(
            "other members are told of the host {host:?}, but spec.externalClusters has {known:?} for this \
             site: set database.cnpg.host to the one by which other sites reach it"
        ))
    })
}

fn versions(probe: &Probe) -> Vec<Finding> {
    let Some(version) = probe.version else {
        return vec![Finding::warn(
            "the version of CloudNativePG is not known (annotation cnpg.io/operatorVersion of the pod): \
             1.30.1 or later is meant",
        )];
    };
    let mut findings = Vec::new();
    if version < OLDEST {
        findings.push(Finding::refuse(format!(
            "CloudNativePG is {version}: promotion and demotion tokens need {OLDEST} or later"
        )));
    } else if !keeps_tokens(version) {
        findings.push(Finding::warn(format!(
            "CloudNativePG is {version}: before {KEEPS_TOKENS} a demotion may lose its token, and the other \
             site is promoted as after a failure; upgrade it"
        )));
    }
    if version == STARTS_TOO_EARLY {
        findings.push(Finding::warn(format!(
            "CloudNativePG is {version}, which starts a primary's data before it holds its own lease; \
             upgrade to 1.30.1"
        )));
    }
    if probe.lease == Some(false) && version >= STARTS_TOO_EARLY {
        findings.push(Finding::warn("CloudNativePG's lease is not there yet"));
    }
    findings
}

fn keeps_tokens(version: Version) -> bool {
    let of_line_before = (version.major, version.minor) == (KEPT_TOKENS.major, KEPT_TOKENS.minor);
    version >= KEEPS_TOKENS || of_line_before && version >= KEPT_TOKENS
}

fn settings(cluster: &Cluster) -> Vec<Finding> {
    let mut findings = Vec::new();
    let spec = &cluster.spec;
    let smart = spec.smart_shutdown_timeout.unwrap_or(SMART_SHUTDOWN_TIMEOUT);
    if smart != 0 {
        findings.push(Finding::warn(format!(
            "spec.smartShutdownTimeout is {smart}: sessions go on writing for so long while Kubernetes stops \
             the instance; set 0"
        )));
    }
    let delay = spec.switchover_delay.unwrap_or(SWITCHOVER_DELAY);
    if delay > LONGEST_SWITCHOVER_DELAY {
        findings.push(Finding::warn(format!(
            "spec.switchoverDelay is {delay}: CloudNativePG waits so long for a stop before it goes on; set \
             {LONGEST_SWITCHOVER_DELAY}"
        )));
    }
    if delay < SHORTEST_SWITCHOVER_DELAY {
        findings.push(Finding::warn(format!(
            "spec.switchoverDelay is {delay}: a stop that takes longer is cut short, and a former primary that did \
             not end cleanly cannot follow another site; set {LONGEST_SWITCHOVER_DELAY}"
        )));
    }
    let method = spec.primary_update_method.as_deref().unwrap_or("restart");
    if method != "restart" {
        findings.push(Finding::warn(format!(
            "spec.primaryUpdateMethod is {method:?}: a promotion ends with a second change of primary; set \
             \"restart\""
        )));
    }
    if cluster.is_hibernated() {
        findings.push(Finding::warn("the Cluster is hibernated (annotation cnpg.io/hibernation)"));
    }
    if cluster.is_unattended() {
        findings.push(Finding::warn(
            "the operator does not look after the Cluster (annotation cnpg.io/reconciliationLoop): no role \
             can change",
        ));
    }
    findings
}

/// What CloudNativePG may do by itself among several instances.
fn of_instances(cluster: &Cluster, us: &Us, probe: &Probe) -> Vec<Finding> {
    let mut findings = Vec::new();
    if us.instance.is_none() || cluster.spec.instances < 2 {
        return findings;
    }
    let delay = cluster.spec.failover_delay.unwrap_or(FAILOVER_DELAY);
    if delay < SHORTEST_FAILOVER_DELAY {
        findings.push(Finding::warn(format!(
            "spec.failoverDelay is {delay}: so long after the primary was last ready the operator makes another \
             instance the primary by itself, whoever holds the lease; set 1000000"
        )));
    }
    if cluster.spec.postgresql.synchronous.failover_quorum == Some(true) {
        findings.push(Finding::warn(if probe.has_quorum() {
            "spec.postgresql.synchronous.failoverQuorum is on: CloudNativePG asks for that quorum in its own \
             failover only, not when the agent says who is the primary; the agents go by what each has received"
        } else {
            "spec.postgresql.synchronous.failoverQuorum is on, which this CloudNativePG does not know"
        }));
    }
    if cluster.spec.probes.liveness.isolation_check.enabled == Some(false) {
        findings.push(Finding::warn(
            "spec.probes.liveness.isolationCheck is off: a primary whose agent and watchdog are both gone and \
             that reaches nobody is ended by nothing; leave it on",
        ));
    }
    findings
}

/// A duration of Kubernetes that is nothing: "", "0", "0s", "0h0m0s".
fn is_zero(delay: &str) -> bool {
    !delay.contains(|c: char| c.is_ascii_digit() && c != '0')
}
