//! Who we are in the Cluster: the site as a whole, or one of its instances.

use super::cluster::Cluster;
use crate::core::event::Upstream;
use crate::core::ids::{MemberId, Site};
use crate::database::server::outcome::{Failure, Step};

/// Ourselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Us {
    /// The member.
    pub(super) member: MemberId,
    /// The instance, which is the pod's name, where every instance is a member; none: the member is the
    /// site, and the Cluster has one instance.
    pub(super) instance: Option<String>,
    /// Where the configuration says that we stand.
    pub(super) site: Option<Site>,
}

impl Us {
    /// The name that the site of `upstream` has among the sites.
    pub(super) fn site_of(&self, upstream: &Upstream) -> Step<String> {
        if self.instance.is_none() {
            return Ok(upstream.member.to_string());
        }
        upstream.site.as_ref().map(ToString::to_string).ok_or_else(|| {
            Failure::Refused(format!(
                "{} does not say where it stands: set `site` there",
                upstream.member
            ))
        })
    }

    /// `upstream` is an instance of our own Cluster.
    pub(super) fn is_beside(&self, upstream: &Upstream, cluster: &Cluster) -> bool {
        let site = upstream.site.as_ref().map(ToString::to_string);
        self.instance.is_some() && site.as_deref() == Some(cluster.site())
    }

    /// The instance that acts for the site, when that is another one.
    pub(super) fn deputy_of<'a>(&self, cluster: &'a Cluster) -> Option<&'a str> {
        let acting = cluster.status.current_primary.as_str();
        let own = self.instance.as_deref()?;
        (cluster.is_replica() && !acting.is_empty() && acting != own).then_some(acting)
    }

    /// The instance that CloudNativePG has act instead of this one: in a replica site, or by its own decision.
    pub(super) fn acting<'a>(&self, cluster: &'a Cluster) -> Option<&'a str> {
        let passed_over =
            || self.is_passed_over(cluster).then_some(cluster.status.target_primary.as_str());
        if cluster.is_replica() { self.deputy_of(cluster) } else { passed_over() }
    }

    /// CloudNativePG wants another instance to act, so that it brings this one up as a standby of that.
    pub(super) fn is_passed_over(&self, cluster: &Cluster) -> bool {
        let target = cluster.status.target_primary.as_str();
        self.instance.as_deref().is_some_and(|own| !target.is_empty() && target != own)
    }

    /// What was fenced by `names` is down, as far as it concerns us.
    pub(super) fn is_named(&self, cluster: &Cluster, names: &[String]) -> bool {
        if names.iter().any(|name| name == ALL) {
            return true;
        }
        match &self.instance {
            Some(own) => names.contains(own),
            None => {
                let instances = &cluster.status.instance_names;
                !instances.is_empty() && instances.iter().all(|instance| names.contains(instance))
            }
        }
    }
}

/// All instances.
pub(super) const ALL: &str = "*";
