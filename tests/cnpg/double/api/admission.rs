//! The admission webhooks of CloudNativePG: defaults, then validation with its words. They are asked
//! for every write of the main resource of a Cluster, whatever it changes; never for its status.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::cluster::Cluster;
use super::super::token;
use super::failure::Failure;
use super::resource::CLUSTERS;

/// What one says whose webhook cannot be reached.
pub(crate) fn unreachable() -> Failure {
    Failure::internal(
        "failed calling webhook \"mcluster.cnpg.io\": failed to call webhook: Post \
         \"https://cnpg-webhook-service.cnpg-system.svc:443/mutate-postgresql-cnpg-io-v1-cluster?timeout=10s\": \
         no endpoints available for service \"cnpg-webhook-service\"",
    )
}

/// Fills in defaults and validates; `old` is none for a new one.
pub(crate) fn admit(object: &mut Value, old: Option<&Value>) -> Result<(), Failure> {
    if object["spec"]["bootstrap"].is_null() {
        object["spec"]["bootstrap"] = json!({ "initdb": { "database": "app", "owner": "app" } });
    }
    let cluster = Cluster(object);
    if cluster.annotation("cnpg.io/validation") == Some("disabled") {
        return Ok(());
    }
    let mut faults = Faults(Vec::new());
    faults.external_clusters(cluster);
    faults.replica(cluster, old.is_none());
    faults.token(cluster);
    faults.synchronous(cluster);
    faults.lease(cluster);
    faults.hibernation(cluster);
    if let Some(old) = old
        && Cluster(old).is_replica() != cluster.is_replica()
        && cluster.in_transition()
    {
        faults.0.push((
            "spec.replica.enabled".to_owned(),
            "Forbidden: cannot modify the field while there is an ongoing operation to enable the \
             replica cluster"
                .to_owned(),
        ));
    }
    if faults.0.is_empty() {
        return Ok(());
    }
    Err(Failure::invalid(&CLUSTERS, "cluster.cnpg.io", cluster.name(), &faults.0)
        .denied_by("vcluster.cnpg.io"))
}

struct Faults(Vec<(String, String)>);

impl Faults {
    fn invalid(&mut self, field: &str, value: &Value, text: &str) {
        self.0.push((field.to_owned(), format!("Invalid value: {value}: {text}")));
    }

    fn external_clusters(&mut self, cluster: Cluster<'_>) {
        let Some(list) = cluster.0["spec"]["externalClusters"].as_array() else { return };
        for (index, entry) in list.iter().enumerate() {
            let sources = ["connectionParameters", "plugin", "barmanObjectStore"];
            if sources.iter().all(|source| entry[source].is_null()) {
                let field = format!("spec.externalClusters[{index}]");
                let text = "one of connectionParameters, plugin and barmanObjectStore is required";
                self.invalid(&field, entry, text);
            }
        }
        let names: BTreeSet<&str> =
            list.iter().filter_map(|entry| entry["name"].as_str()).collect();
        if names.len() != list.len() {
            let text = "the list of external clusters contains duplicate values";
            self.invalid("spec.externalClusters", &cluster.0["spec"]["externalClusters"], text);
        }
    }

    fn replica(&mut self, cluster: Cluster<'_>, new: bool) {
        let replica = &cluster.0["spec"]["replica"];
        if !replica.is_object() {
            return;
        }
        let primary = cluster.text("/spec/replica/primary");
        if !primary.is_empty() && !replica["enabled"].is_null() {
            let text = "replica mode enabled is not compatible with the primary field";
            self.invalid("spec.replicaCluster.enabled", replica, text);
        }
        let bootstrap = &cluster.0["spec"]["bootstrap"];
        if cluster.is_replica()
            && new
            && bootstrap["pg_basebackup"].is_null()
            && bootstrap["recovery"].is_null()
        {
            let text = "replica mode bootstrap is compatible only with pg_basebackup or recovery";
            self.invalid("spec.replicaCluster", replica, text);
        }
        let fields = [("source", "primaryServerName"), ("self", "self"), ("primary", "primary")];
        for (field, told) in fields {
            let name = replica[field].as_str().unwrap_or_default();
            if (field == "source" || !name.is_empty()) && cluster.external(name).is_none() {
                let text = format!("External cluster {name} not found");
                self.invalid(&format!("spec.replicaCluster.{told}"), &json!(name), &text);
            }
        }
    }

    fn token(&mut self, cluster: Cluster<'_>) {
        let value = &cluster.0["spec"]["replica"]["promotionToken"];
        if cluster.token().is_empty() {
            return;
        }
        if !cluster.0["spec"]["replica"]["minApplyDelay"].is_null() {
            let text = "minApplyDelay cannot be applied with a promotion token";
            self.invalid("spec.replicaCluster.minApplyDelay", value, text);
        } else if cluster.is_replica() {
            let text = "promotionToken is only allowed for primary clusters";
            self.invalid("spec.replicaCluster.token", value, text);
        } else if let Err(error) = token::read(cluster.token()) {
            self.invalid("spec.replicaCluster.token", value, &error);
        }
    }

    fn synchronous(&mut self, cluster: Cluster<'_>) {
        let synchronous = &cluster.0["spec"]["postgresql"]["synchronous"];
        let Some(number) = synchronous["number"].as_u64() else { return };
        let names = |field: &str| synchronous[field].as_array().map_or(0, Vec::len) as u64;
        let others = names("standbyNamesPre") + names("standbyNamesPost");
        if number >= cluster.instances() + others {
            let text = "Invalid synchronous configuration: the number of synchronous replicas must be \
                        less than the total number of instances and the provided standby names.";
            self.invalid("spec.postgresql.synchronous", synchronous, text);
        }
        if synchronous["failoverQuorum"] == true && number <= others {
            let text = "Invalid failoverQuorum configuration: spec.postgresql.synchronous.number must \
                        be greater than the total number of instances in \
                        spec.postgresql.synchronous.standbyNamesPre and \
                        spec.postgresql.synchronous.standbyNamesPost to allow automatic failover.";
            self.invalid("spec.postgresql.synchronous.failoverQuorum", synchronous, text);
        }
    }

    fn lease(&mut self, cluster: Cluster<'_>) {
        let times = Lease::of(cluster);
        let value = &cluster.0["spec"]["primaryLease"];
        if times.duration <= times.renew {
            let text = "leaseDurationSeconds must be greater than renewDeadlineSeconds";
            self.invalid("spec.primaryLease.leaseDurationSeconds", value, text);
        }
        if f64::from(times.renew) <= 1.2 * f64::from(times.retry) {
            let text = "renewDeadlineSeconds must be greater than retryPeriodSeconds times 1.2";
            self.invalid("spec.primaryLease.renewDeadlineSeconds", value, text);
        }
    }

    fn hibernation(&mut self, cluster: Cluster<'_>) {
        if let Some(value) = cluster.annotation("cnpg.io/hibernation")
            && value != "on"
            && value != "off"
        {
            let text = "Annotation value for hibernation should be \"on\" or \"off\"";
            self.invalid("metadata.annotations.cnpg.io/hibernation", &json!(value), text);
        }
    }
}

/// The times of the primary's lease, in seconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    /// After so long without a change somebody else may take it.
    pub(crate) duration: u32,
    /// Who cannot renew for so long gives up.
    pub(crate) renew: u32,
    /// Between two tries.
    pub(crate) retry: u32,
    /// Duration written when it is given back.
    pub(crate) released: u32,
}

impl Lease {
    /// As the Cluster says, else as CloudNativePG does.
    pub(crate) fn of(cluster: Cluster<'_>) -> Self {
        let field = |name: &str, otherwise: u32| {
            let value = cluster.0["spec"]["primaryLease"][name].as_u64();
            value.and_then(|value| u32::try_from(value).ok()).unwrap_or(otherwise)
        };
        Self {
            duration: field("leaseDurationSeconds", 15),
            renew: field("renewDeadlineSeconds", 10),
            retry: field("retryPeriodSeconds", 2),
            released: field("releasedLeaseDurationSeconds", 1),
        }
    }
}
