//! What programs read: the JSON of the tools fits the schemas in docs/schemas.

use crate::support::{Host, busybox_rootfs, outcome, root, sh, top};
use serde_json::Value;
use std::fs;

/// The schema `name`.
fn schema(name: &str) -> Value {
    let path = top().join("docs/schemas").join(name).with_extension("json");
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Where `value` is not what `schema` says, in words. Of JSON Schema this knows what the schemas here use, and refuses
/// the rest.
fn faults(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let known = [
        "$schema",
        "title",
        "description",
        "type",
        "enum",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "oneOf",
    ];
    let mut faults = vec![];
    for key in schema.as_object().unwrap().keys() {
        assert!(known.contains(&key.as_str()), "{at}: the test does not know '{key}'");
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fitting = choices.iter().filter(|choice| self::faults(choice, value, at).is_empty());
        if fitting.count() != 1 {
            faults.push(format!("{at}: {value} is not one of the choices"));
        }
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        faults.push(format!("{at}: {value} is not among {values:?}"));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    };
    if !types.is_empty() && !types.iter().any(|name| is_of_type(value, name)) {
        faults.push(format!("{at}: {value} is no {}", types.join(" or ")));
    }
    if let Some(object) = value.as_object() {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !object.contains_key(name) {
                faults.push(format!("{at}: '{name}' is missing"));
            }
        }
        for (name, member) in object {
            let at = format!("{at}.{name}");
            match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Bool(false)) => {
                    faults.push(format!("{at} is not in the schema"));
                }
                (Value::Null, rest @ Value::Object(_)) => {
                    faults.extend(self::faults(rest, member, &at));
                }
                (Value::Null, _) => {}
                (known, _) => faults.extend(self::faults(known, member, &at)),
            }
        }
    }
    if let (Some(items), Value::Object(_)) = (value.as_array(), &schema["items"]) {
        for (number, item) in items.iter().enumerate() {
            faults.extend(self::faults(&schema["items"], item, &format!("{at}[{number}]")));
        }
    }
    faults
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("no type '{other}'"),
    }
}

#[track_caller]
fn fits(name: &str, text: &str) {
    let value: Value =
        serde_json::from_str(text).unwrap_or_else(|err| panic!("{name}: {err}: {text}"));
    assert_eq!(faults(&schema(name), &value, name), Vec::<String>::new(), "{text}");
}

#[test]
fn netns_setup_writes_what_its_schema_says() {
    need!(root());
    let host = Host::new();
    let etc = "mkdir /run/etc && cp --archive /etc/. /run/etc && mount --bind /run/etc /etc";
    host.sh(etc).success();
    let up = host.run("netns-setup", &["up", "--json", "--nat", "--publish", "8080:80", "schemas"]);
    fits("netns-setup-up", &up.success().stdout);
    let again = host.run("netns-setup", &["up", "--json", "schemas"]).success().stdout;
    fits("netns-setup-up", &again);
    fits(
        "netns-setup-status",
        &host.run("netns-setup", &["status", "--json", "schemas"]).success().stdout,
    );
    let all = host.run("netns-setup", &["status", "--all", "--json"]).success().stdout;
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 1);
    fits("netns-setup-status", &all[0].to_string());
}

#[test]
fn cgroup_apply_writes_what_its_schemas_say() {
    need!(root());
    let name = format!("schemas-{}", std::process::id());
    let run = |args: &[&str]| crate::support::run("cgroup-apply", args).success().stdout;
    fits("cgroup-apply-info", &run(&["info", "--json"]));
    run(&["create", "--pids-max", "9", "--memory-max", "64M", &name]);
    let shown = run(&["show", "--json", &name]);
    let used = run(&["run", "--stats", "-", &name, "--", "true"]);
    run(&["delete", &name]);
    fits("cgroup-apply-show", &shown);
    fits("cgroup-apply-stats", &used);
}

#[test]
fn ns_spawn_writes_what_its_schema_says() {
    need!(root());
    let mut spawn = crate::support::tool("ns-spawn");
    spawn.args(["--status-fd", "1", "--root"]).arg(busybox_rootfs());
    let written = outcome(spawn.args(["--", "true"])).success().stdout;
    assert_eq!(written.lines().count(), 2, "{written}");
    let mut spawn = crate::support::tool("ns-spawn");
    spawn.args(["--status-fd", "1", "--root"]).arg(busybox_rootfs());
    let failed = outcome(spawn.args(["--", "/nosuch"]));
    assert_eq!(failed.code, 127);
    for line in (written + &failed.stdout).lines() {
        fits("ns-spawn-status", line);
    }
}

#[test]
fn rootfs_fetch_writes_what_its_schema_says() {
    need!(root());
    let dir = tempfile::tempdir().unwrap();
    let tarball = dir.path().join("base.tar");
    sh(&format!("tar -C {} -cf {} ./bin ./etc", busybox_rootfs().display(), tarball.display()))
        .success();
    let dest = dir.path().join("rootfs");
    for _ in 0..2 {
        let mut fetch = crate::support::tool("rootfs-fetch");
        fetch.args(["--json", "--no-install", "--from"]).arg(&tarball).arg(&dest);
        fits("rootfs-fetch", &outcome(&mut fetch).success().stdout);
    }
}

#[test]
fn the_check_itself_finds_faults() {
    let schema = serde_json::json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": ["integer", "null"]}, "b": {"type": "array", "items": {"enum": ["x"]}}}
    });
    let fits = |value: Value| faults(&schema, &value, "it").is_empty();
    assert!(fits(serde_json::json!({"a": 1, "b": ["x"]})) && fits(serde_json::json!({"a": null})));
    for wrong in [
        serde_json::json!([]),
        serde_json::json!({}),
        serde_json::json!({"a": "1"}),
        serde_json::json!({"a": 1, "c": 2}),
        serde_json::json!({"a": 1, "b": ["y"]}),
    ] {
        assert!(!fits(wrong.clone()), "{wrong}");
    }
}
