//! Backends as commands change them: what an endpoint of the file is to a service, said anew.

use serde::{Deserialize, Serialize};

use super::{Endpoint, Fault, Given, Origin, Spec, change::unknown};

/// What an endpoint is to services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Membership {
    /// The service that it is a backend of.
    pub service: Option<String>,
    /// Its weight there, where one is given.
    pub weight: Option<u16>,
}

/// What a command has changed about an endpoint of the file.
///
/// It holds as long as the file says of the endpoint what it said then: where somebody has written something else
/// since, the file is the newer word.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Override {
    /// What the file says.
    pub file: Membership,
    /// What holds instead.
    pub now: Membership,
}

impl Spec {
    /// Makes an endpoint, also one of the file, a backend of another service or of none, or gives it another weight.
    ///
    /// # Errors
    /// There is no endpoint of the name.
    pub fn set_membership(&mut self, name: &str, now: Membership, origin: &Origin) -> Result<(), Fault> {
        let found = self.endpoints.iter_mut().find(|endpoint| endpoint.name.value == name);
        let endpoint = found.ok_or_else(|| unknown("endpoint", name))?;
        let before = endpoint.membership();
        endpoint.take_membership(&now, origin);
        if !endpoint.origin.is_file() {
            return Ok(());
        }
        let file = self.overrides.remove(name).map_or(before, |known| known.file);
        if file != now {
            self.overrides.insert(name.to_owned(), Override { file, now });
        }
        Ok(())
    }

    /// Takes over what commands had changed about endpoints that the file still has as they were then.
    pub(super) fn adopt_overrides(&mut self, earlier: &Self) {
        if earlier.overrides.is_empty() {
            return;
        }
        let origin = Origin::command("meshctl backends");
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.origin.is_file()) {
            let name = &endpoint.name.value;
            if let Some(known) = earlier.overrides.get(name)
                && known.file == endpoint.membership()
            {
                self.overrides.insert(name.clone(), known.clone());
                endpoint.take_membership(&known.now, &origin);
            }
        }
    }
}

impl Endpoint {
    /// Whether it is a backend of a service.
    #[must_use]
    pub fn is_backend_of(&self, name: &str) -> bool {
        self.service.as_ref().is_some_and(|service| service.value == name)
    }

    /// What it is to services.
    #[must_use]
    pub fn membership(&self) -> Membership {
        Membership {
            service: self.service.as_ref().map(|service| service.value.clone()),
            weight: self.weight.as_ref().map(|weight| weight.value),
        }
    }

    fn take_membership(&mut self, membership: &Membership, origin: &Origin) {
        self.service = membership.service.clone().map(|service| Given::new(service, origin.clone()));
        self.weight = membership.weight.map(|weight| Given::new(weight, origin.clone()));
    }
}
