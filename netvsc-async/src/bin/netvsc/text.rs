//! What people see.

use std::fmt::Write;
use std::io;

use netvsc_async::bind::{BindError, Bound, Device, Plan, class_name};

use super::Failure;

/// A table with a line a device.
pub(crate) fn list(devices: &[Device], all: bool) -> String {
    let mut rows =
        vec![["INSTANCE", "INTERFACE", "MAC", "DRIVER", "OVERRIDE", "UIO", "VF", "CARRIES"].map(str::to_owned)];
    rows.extend(devices.iter().map(row));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.len().max(*width);
        }
    }
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let mut line = cells.collect::<Vec<_>>().join("  ");
        if all {
            line += "  ";
            line += index
                .checked_sub(1)
                .and_then(|index| devices.get(index))
                .map_or("CLASS", |d| class_name(d.sysfs.class));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

fn row(device: &Device) -> [String; 8] {
    [
        device.instance().to_string(),
        or_dash(interfaces(device)),
        device.mac().map_or("-".into(), |mac| mac.to_string()),
        device.driver().unwrap_or("-").to_owned(),
        device.driver_override.to_string(),
        device.uio().unwrap_or("-".into()),
        or_dash(device.virtual_functions.iter().map(|function| function.name.clone()).collect()),
        device.carries.to_string(),
    ]
}

/// One device, a line a fact.
pub(crate) fn status(device: &Device) -> String {
    let [instance, interfaces, mac, driver, driver_override, uio, functions, carries] = row(device);
    let state = match (device.is_bound(), device.driver()) {
        (true, _) => "bound to user space",
        (false, Some("hv_netvsc")) => "with the kernel",
        (false, Some(_)) => "with another driver",
        (false, None) => "without a driver",
    };
    let lines = [
        ("instance", instance),
        ("state", state.to_owned()),
        ("interface", interfaces),
        ("mac", mac),
        ("driver", driver),
        ("driver_override", driver_override),
        ("uio", uio),
        ("virtual function", functions),
        ("carries", carries),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:17} {value}");
        text
    })
}

/// What would be written.
pub(crate) fn plan(plan: &Plan) -> String {
    let device = plan.device.instance();
    if plan.is_done() {
        return format!("# {device} is with {} already; nothing to write\n", plan.driver);
    }
    format!("# {device} to {}\n{}{plan}", plan.driver, notes(plan, "# "))
}

/// What was bound.
pub(crate) fn bound(bound: &Bound) -> String {
    let done = if bound.plan.is_done() { "was bound already" } else { "is bound" };
    format!("{} {done}: /dev/{}\n{}", bound.device.instance(), bound.uio, notes(&bound.plan, ""))
}

/// What was given back.
pub(crate) fn unbound(plan: &Plan, device: &Device) -> String {
    let done = if plan.is_done() { "was with" } else { "is back with" };
    let interfaces = or_dash(interfaces(device));
    format!("{} {done} {}: {interfaces}\n", device.instance(), plan.driver)
}

/// What else people should know, a line each.
fn notes(plan: &Plan, prefix: &str) -> String {
    let mut text = String::new();
    for function in plan.device.virtual_functions.iter().filter(|_| plan.driver != "hv_netvsc") {
        let _ = writeln!(text, "{prefix}note: its virtual function {} stays with the kernel", function.name);
    }
    for instance in &plan.also_taken {
        let _ = writeln!(text, "{prefix}note: {instance} has no driver and is taken by {}, too", plan.driver);
    }
    text
}

/// Why it failed, and what to do about it.
pub(crate) fn failure(failure: &Failure) -> String {
    match failure {
        Failure::Command { command, error } => format!("cannot run {command}: {error}"),
        Failure::Bind(error @ BindError::Needed { .. }) => format!("{error}; use --force to take it all the same"),
        Failure::Bind(error @ BindError::Write { error: cause, .. })
            if cause.kind() == io::ErrorKind::PermissionDenied =>
        {
            format!("{error}; this needs root")
        }
        Failure::Bind(error) => error.to_string(),
    }
}

fn interfaces(device: &Device) -> Vec<String> {
    device.sysfs.interfaces.iter().map(|interface| interface.name.clone()).collect()
}

fn or_dash(names: Vec<String>) -> String {
    if names.is_empty() { "-".into() } else { names.join(",") }
}
