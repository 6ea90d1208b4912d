//! The files to deploy with: the unit of systemd (docs/outboxd.service) and the manifests of
//! Kubernetes (docker/kubernetes.yaml). Their settings load, what the manual says about stops, exit
//! codes and restarts is in them, and outboxd has no right that it does not need.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use outboxd::config::{Config, Settings};
use tempfile::TempDir;
use yaml_rust2::{Yaml, YamlLoader};

use super::checks::accepted;
use super::read;
use super::reference::{setting_names, unknown_settings};
use crate::support::not_offered;
use crate::support::outboxd::PROGRAM;

const UNIT: &str = "docs/outboxd.service";
const MANIFEST: &str = "docker/kubernetes.yaml";

/// The largest exposure of the unit by `systemd-analyze security`, in tenths; 100 is the worst.
const EXPOSURE_MAX: &str = "15";

/// Loads an environment as the program does; what is mounted at `secrets` is in a folder.
fn config(environment: &[(String, String)], secrets: &str) -> Result<Config> {
    let folder = secret_files()?;
    let mut lines = String::new();
    for (name, value) in environment {
        let name = name.trim_start_matches("OUTBOX_").to_lowercase();
        let value = value.replace(secrets, &folder.path().display().to_string());
        lines.push_str(&format!("{name} = {value:?}\n"));
    }
    let file = folder.path().join("outboxd.toml");
    std::fs::write(&file, lines)?;
    Ok(Config::from_settings(Settings::load(&file))?)
}

fn secret_files() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    for name in ["password", "ca.crt"] {
        std::fs::write(folder.path().join(name), "secret")?;
    }
    Ok(folder)
}

fn only_known_settings(text: &str) -> Result<()> {
    let unknown = unknown_settings(text, &setting_names());
    ensure!(unknown.is_empty(), "no such settings: {unknown:?}");
    Ok(())
}

/// The lines `KEY=VALUE` of a unit.
fn entries(unit: &str) -> Vec<(&str, &str)> {
    let lines = unit.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).collect()
}

/// The one value of a key.
fn value<'u>(unit: &'u str, key: &str) -> Result<&'u str> {
    let entries = entries(unit);
    let mut values = entries.iter().filter(|(known, _)| *known == key);
    let (Some((_, value)), None) = (values.next(), values.next()) else {
        bail!("{key} is not there once");
    };
    Ok(value)
}

/// What is wrong with a unit, by what outboxd needs.
fn check_unit(unit: &str) -> Result<()> {
    only_known_settings(unit)?;
    // systemd names the user in the environment, which the tests share.
    let host = format!("://{}@/", value(unit, "User")?);
    let mut environment = Vec::new();
    for (_, variable) in entries(unit)
        .iter()
        .filter(|(key, _)| *key == "Environment")
    {
        let (name, value) = variable.split_once('=').context("no value")?;
        environment.push((name.to_owned(), value.replace(":///", &host)));
    }
    let config = config(&environment, "/none")?;
    let start = value(unit, "ExecStart")?;
    let (program, arguments) = start.split_once(' ').context("it has no command")?;
    ensure!(program.ends_with("/outboxd"), "it does not start outboxd");
    accepted(&arguments.split(' ').collect::<Vec<_>>())?;
    ensure!(value(unit, "Restart")? == "on-failure", "Restart");
    let prevented = value(unit, "RestartPreventExitStatus")?;
    ensure!(prevented == "1 2", "a restart helps neither 1 nor 2");
    // systemd gives up after five starts in ten seconds.
    ensure!(value(unit, "RestartSec")?.parse::<u64>()? > 2, "RestartSec");
    let stop = Duration::from_secs(value(unit, "TimeoutStopSec")?.parse()?);
    ensure!(stop > config.operation_timeout, "killed while it stops");
    Ok(())
}

/// Runs `systemd-analyze` on a unit whose program is there; `None` where the machine has none.
fn systemd_analyze(unit: &str, arguments: &[&str]) -> Result<Option<(bool, String)>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("outboxd.service");
    let program = value(unit, "ExecStart")?;
    let (program, _) = program.split_once(' ').context("it has no command")?;
    std::fs::write(&file, unit.replace(program, PROGRAM))?;
    let mut command = Command::new("systemd-analyze");
    let output = match command.args(arguments).arg(&file).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(Some((output.status.success(), said)))
}

/// What systemd says about the lines of a unit.
fn verify(unit: &str) -> Result<Option<Vec<String>>> {
    let said = systemd_analyze(unit, &["verify", "--man=no"])?;
    Ok(said.map(|(_, said)| {
        let lines = said.lines().filter(|line| line.contains("outboxd.service"));
        lines.map(str::to_owned).collect()
    }))
}

#[test]
fn the_unit_restarts_where_that_may_help_and_lets_outboxd_stop() -> Result<()> {
    let unit = read(UNIT)?;
    check_unit(&unit)?;
    for (right, wrong) in [
        (" run\n", " walk\n"),
        ("=1 2\n", "=1\n"),
        ("=on-failure\n", "=always\n"),
        ("StopSec=30\n", "StopSec=25\n"),
        ("RestartSec=5\n", "RestartSec=1\n"),
        ("=KAFKA_BROKERS=", "=KAFKA_BROKER="),
        ("=postgresql://", "=mysql://"),
    ] {
        let changed = unit.replace(right, wrong);
        assert_ne!(changed, unit);
        assert!(check_unit(&changed).is_err(), "{wrong}");
    }
    Ok(())
}

#[test]
fn the_unit_is_valid_for_systemd_and_confines_outboxd() -> Result<()> {
    let unit = read(UNIT)?;
    let Some(said) = verify(&unit)? else {
        not_offered("systemd-analyze, for docs/outboxd.service");
        return Ok(());
    };
    assert!(said.is_empty(), "{}", said.join("\n"));
    let wrong = verify(&unit.replace("UMask=", "UMusk="))?;
    assert!(wrong.is_some_and(|said| !said.is_empty()), "not refused");
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    let rate = ["security", "--offline=yes", "--no-pager", &threshold];
    let (passes, said) = systemd_analyze(&unit, &rate)?.context("it has gone")?;
    assert!(passes, "{said}");
    let open = unit.replace("CapabilityBoundingSet=\n", "");
    let (passes, _) = systemd_analyze(&open, &rate)?.context("it has gone")?;
    assert!(!passes, "a unit with capabilities is below the limit");
    Ok(())
}

/// The manifests, by kind.
struct Manifests(Vec<Yaml>);

impl Manifests {
    fn load() -> Result<Manifests> {
        Ok(Manifests(YamlLoader::load_from_str(&read(MANIFEST)?)?))
    }

    fn get(&self, kind: &str) -> Result<&Yaml> {
        let mut found = self.0.iter().filter(|it| it["kind"].as_str() == Some(kind));
        found.next().with_context(|| format!("there is no {kind}"))
    }

    fn pod(&self) -> Result<&Yaml> {
        Ok(&self.get("Deployment")?["spec"]["template"]["spec"])
    }

    fn container(&self) -> Result<&Yaml> {
        let containers = self.pod()?["containers"].as_vec();
        let [container] = &containers.context("no containers")?[..] else {
            bail!("not one container");
        };
        Ok(container)
    }
}

/// A size such as `128Mi`, in bytes.
fn size(text: &Yaml) -> Result<usize> {
    let mebibytes = text.as_str().and_then(|it| it.strip_suffix("Mi"));
    Ok(mebibytes.context("not in Mi")?.parse::<usize>()? << 20)
}

/// The value of an instruction in the Dockerfile, the last one.
fn image(instruction: &str) -> Result<String> {
    let text = read("docker/Dockerfile")?;
    let mut lines = text.lines().rev();
    let value = lines.find_map(|line| line.strip_prefix(instruction)?.strip_prefix(' '));
    Ok(value
        .with_context(|| format!("no {instruction}"))?
        .to_owned())
}

#[test]
fn the_deployment_runs_the_image_with_a_standby_and_settings_that_load() -> Result<()> {
    let manifests = Manifests::load()?;
    only_known_settings(&read(MANIFEST)?)?;
    let (deployment, pod) = (manifests.get("Deployment")?, manifests.pod()?);
    let container = manifests.container()?;
    assert_eq!(deployment["spec"]["replicas"].as_i64(), Some(2));
    let mounted = container["volumeMounts"][0]["mountPath"].as_str();
    let mounted = mounted.context("no mount")?;
    let mut environment = Vec::new();
    for variable in container["env"].as_vec().context("no variables")? {
        // Other values come from the Secret.
        if let Some(value) = variable["value"].as_str() {
            let name = variable["name"].as_str().context("no name")?;
            environment.push((name.to_owned(), value.to_owned()));
        }
    }
    let config = config(&environment, mounted)?;
    let grace = pod["terminationGracePeriodSeconds"].as_i64();
    let grace = Duration::from_secs(grace.context("no grace period")?.try_into()?);
    assert!(grace > config.operation_timeout, "killed while it stops");
    let memory = &container["resources"]["limits"]["memory"];
    assert!(size(memory)? > 2 * config.memory_limit, "{memory:?}");
    // The image listens there, and the probes and the Service ask there.
    let port: i64 = image("EXPOSE")?.parse()?;
    assert_eq!(container["ports"][0]["containerPort"].as_i64(), Some(port));
    for (probe, path) in [("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"].as_str(), Some(path), "{probe}");
        assert_eq!(get["port"], container["ports"][0]["name"], "{probe}");
    }
    let user = image("USER")?;
    let (user, group) = user.split_once(':').context("no group")?;
    let context = &pod["securityContext"];
    assert_eq!(context["runAsUser"].as_i64(), Some(user.parse()?));
    assert_eq!(context["runAsGroup"].as_i64(), Some(group.parse()?));
    Ok(())
}

#[test]
fn the_deployment_gives_outboxd_no_right_that_it_does_not_need() -> Result<()> {
    let manifests = Manifests::load()?;
    let (pod, container) = (manifests.pod()?, manifests.container()?);
    let own = &container["securityContext"];
    let seccomp = &pod["securityContext"]["seccompProfile"]["type"];
    assert_eq!(seccomp.as_str(), Some("RuntimeDefault"));
    assert_eq!(own["capabilities"]["drop"][0].as_str(), Some("ALL"));
    for (name, value, expected) in [
        (
            "runAsNonRoot",
            &pod["securityContext"]["runAsNonRoot"],
            true,
        ),
        (
            "readOnlyRootFilesystem",
            &own["readOnlyRootFilesystem"],
            true,
        ),
        (
            "allowPrivilegeEscalation",
            &own["allowPrivilegeEscalation"],
            false,
        ),
        (
            "the Secret",
            &container["volumeMounts"][0]["readOnly"],
            true,
        ),
        ("its token", &pod["automountServiceAccountToken"], false),
        // Their variables begin with OUTBOXD_ and would be warnings.
        ("enableServiceLinks", &pod["enableServiceLinks"], false),
    ] {
        assert_eq!(value.as_bool(), Some(expected), "{name}");
    }
    Ok(())
}

#[test]
fn every_selector_of_the_manifests_finds_what_it_is_for() -> Result<()> {
    let manifests = Manifests::load()?;
    let get = |kind| manifests.get(kind);
    let deployment = &get("Deployment")?["spec"];
    let labels = &deployment["template"]["metadata"]["labels"];
    assert!(labels.as_hash().is_some_and(|it| !it.is_empty()));
    let service = get("Service")?;
    for (what, selected) in [
        ("Deployment", &deployment["selector"]["matchLabels"]),
        ("Service", &service["spec"]["selector"]),
        (
            "PodDisruptionBudget",
            &get("PodDisruptionBudget")?["spec"]["selector"]["matchLabels"],
        ),
        (
            "NetworkPolicy",
            &get("NetworkPolicy")?["spec"]["podSelector"]["matchLabels"],
        ),
    ] {
        assert_eq!(selected, labels, "{what}");
    }
    let monitor = &get("ServiceMonitor")?["spec"];
    let selected = &monitor["selector"]["matchLabels"];
    assert_eq!(selected, &service["metadata"]["labels"]);
    let port = &service["spec"]["ports"][0];
    assert_eq!(monitor["endpoints"][0]["port"], port["name"]);
    let own = &manifests.container()?["ports"][0]["name"];
    assert_eq!(&port["targetPort"], own);
    assert_eq!(
        &get("NetworkPolicy")?["spec"]["ingress"][0]["ports"][0]["port"],
        own
    );
    // The Service's name becomes the label `job`, by which the alerts know outboxd.
    let name = service["metadata"]["name"].as_str();
    assert!(
        name.is_some_and(|name| name.contains("outboxd")),
        "{name:?}"
    );
    Ok(())
}

/// `.dockerignore` lists what the build may see, and everything else is out.
#[test]
fn the_build_of_the_image_sees_every_file_that_it_copies() -> Result<()> {
    let ignored = read(".dockerignore")?;
    let seen: Vec<&str> = ignored
        .lines()
        .filter_map(|it| it.strip_prefix('!'))
        .collect();
    let dockerfile = read("docker/Dockerfile")?;
    let copies = dockerfile.lines().filter_map(|it| it.strip_prefix("COPY "));
    let mut count = 0;
    for copy in copies.filter(|it| !it.starts_with("--from")) {
        let words: Vec<&str> = copy.split_whitespace().collect();
        let (_, sources) = words.split_last().context("no words")?;
        for source in sources {
            assert!(super::root().join(source).exists(), "{source} is not there");
            let may = seen.iter().any(|it| Path::new(source).starts_with(it));
            assert!(may, "{source} is not in .dockerignore");
            count += 1;
        }
    }
    assert!(count > 3, "the lines are found");
    Ok(())
}
