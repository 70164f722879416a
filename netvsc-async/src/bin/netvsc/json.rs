//! What scripts see.

use netvsc_async::bind::{BindError, Device, DriverOverride, NotFound, Plan, class_name};
use rndis::value::MacAddress;
use serde_json::{Value, json};

use super::Failure;

/// A value on a line of its own.
pub(crate) fn line(value: &Value) -> String {
    format!("{value}\n")
}

/// All devices.
pub(crate) fn list(devices: &[Device]) -> String {
    line(&devices.iter().map(device).collect())
}

/// One device.
pub(crate) fn device(device: &Device) -> Value {
    let interfaces = device.sysfs.interfaces.iter();
    let functions = device.virtual_functions.iter();
    json!({
        "instance": device.instance().to_string(),
        "bus_id": device.bus_id(),
        "class": device.sysfs.class.to_string(),
        "class_name": class_name(device.sysfs.class),
        "driver": device.driver(),
        "driver_override": match &device.driver_override {
            DriverOverride::Driver(driver) => Some(driver),
            _ => None,
        },
        "driver_override_supported": device.driver_override != DriverOverride::Unsupported,
        "uio": device.uio(),
        "bound": device.is_bound(),
        "mac": device.mac().map(|mac| mac.to_string()),
        "interfaces": interfaces
            .map(|interface| json!({"name": interface.name, "mac": interface.mac.map(|mac| MacAddress(mac).to_string())}))
            .collect::<Vec<_>>(),
        "virtual_functions": functions
            .map(|function| json!({"name": function.name, "master": function.master}))
            .collect::<Vec<_>>(),
        "default_route": device.carries.default_route,
        "login_session": device.carries.login_session,
    })
}

/// A plan, and the device as it is now if the plan was carried out.
pub(crate) fn plan(plan: &Plan, now: Option<&Device>) -> String {
    let writes = plan.writes.iter();
    line(&json!({
        "dry_run": now.is_none(),
        "driver": plan.driver,
        "way": plan.way.to_string(),
        "writes": writes
            .map(|write| json!({
                "path": write.path.display().to_string(),
                "data": write.data,
                "tolerates": write.tolerates.map(|tolerates| tolerates.to_string()),
            }))
            .collect::<Vec<_>>(),
        "also_taken": plan.also_taken.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "device": device(now.unwrap_or(&plan.device)),
    }))
}

/// Why it failed.
pub(crate) fn failure(failure: &Failure) -> Value {
    let candidates = match failure {
        Failure::Bind(BindError::NotFound(not_found)) => candidates(not_found),
        _ => Vec::new(),
    };
    json!({
        "error": super::text::failure(failure),
        "exit_code": failure.exit_code(),
        "candidates": candidates,
    })
}

/// What was there instead: devices first, then interfaces that are none.
fn candidates(not_found: &NotFound) -> Vec<Value> {
    let devices = not_found.error.candidates.iter().map(|candidate| {
        json!({
            "instance": candidate.instance.map(|instance| instance.to_string()),
            "interface": candidate.interfaces.first(),
            "reason": candidate.refusal.to_string(),
        })
    });
    let others = not_found
        .interfaces
        .iter()
        .map(|interface| json!({"instance": Value::Null, "interface": interface.name, "reason": interface.reason()}));
    devices.chain(others).collect()
}
