//! Properties of librdkafka.

use super::*;

#[test]
fn kafka_properties_of_flags_stand_before_those_of_the_list_and_these_before_the_file() {
    let given = flags(&[
        "--kafka-properties=linger.ms=2,debug=broker,topic,client.id=listed",
        "--kafka=linger.ms=1",
        "--kafka=sasl.password=a=b",
    ]);
    let file =
        file("[kafka]\nlinger.ms = 3\n'client.id' = 'filed'\nsocket.keepalive.enable = true");
    let config = build(given.or(file).or(valid())).unwrap();
    let properties: Vec<String> = config
        .kafka_properties
        .iter()
        .map(|(name, value)| format!("{name}={}", value.expose()))
        .collect();
    assert_eq!(
        properties,
        [
            "client.id=listed",
            "debug=broker,topic",
            "linger.ms=1",
            "sasl.password=a=b",
            "socket.keepalive.enable=true",
        ]
    );
}

#[test]
fn properties_of_javas_clients_are_refused_with_what_to_set_instead() {
    let jaas = "sasl.jaas.config=org.example.Login required username=\"u\" password=\"hunter2\";";
    let error = only_error(build(flags(&["--kafka", jaas]).or(valid())));
    let problem = "KAFKA_PROPERTIES has sasl.jaas.config, which is a property of Java's clients";
    assert!(error.starts_with(problem), "{error}");
    assert!(error.contains("sasl.username and sasl.password"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
    let error = only_error(build(
        flags(&["--kafka", "ssl.truststore.location=/etc/trust.jks"]).or(valid()),
    ));
    assert!(error.contains("ssl.ca.location"), "{error}");
    for name in [
        "sasl.login.callback.handler.class",
        "sasl.oauthbearer.jwks.endpoint.url",
        "ssl.enabled.protocols",
        "interceptor.classes",
    ] {
        let error = only_error(build(flags(&["--kafka", &format!("{name}=x")]).or(valid())));
        assert!(error.contains(name), "{error}");
        assert!(error.contains("Java's clients"), "{error}");
    }
}

#[test]
fn a_name_that_librdkafka_lacks_is_an_error_before_anything_connects() {
    let error = only_error(build(flags(&["--kafka", "lingr.ms=5"]).or(valid())));
    let problem = "KAFKA_PROPERTIES has lingr.ms, which librdkafka does not know";
    assert!(error.starts_with(problem), "{error}");
    let error = only_error(build(flags(&["--kafka", "hunter2=5"]).or(valid())));
    assert!(!error.contains("hunter2"), "{error}");
}

#[test]
fn kafka_properties_that_carry_a_guarantee_are_refused_by_name_with_the_reason() {
    for name in [
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "transactional.id",
        "max.in.flight",
        "max.in.flight.requests.per.connection",
        "retries",
        "message.send.max.retries",
        "partitioner",
        "enable.gapless.guarantee",
        "queue.buffering.max.messages",
        "queue.buffering.max.kbytes",
        "queue.buffering.max.ms",
        "dr_cb",
        "dr_msg_cb",
        "delivery.report.only.error",
        "bootstrap.servers",
        "metadata.broker.list",
        "test.mock.num.brokers",
        "test.mock.broker.rtt",
        "statistics.interval.ms",
        "enable.sasl.oauthbearer.unsecure.jwt",
        "sasl.oauthbearer.assertion.private.key.file",
        "sasl.oauthbearer.metadata.authentication.type",
    ] {
        let error = only_error(build(flags(&["--kafka", &format!("{name}=1")]).or(valid())));
        assert!(
            error.starts_with(&format!("KAFKA_PROPERTIES may not set {name}: ")),
            "{error}"
        );
    }
    for allowed in [
        "message.max.bytes=20000000",
        "compression.type=zstd",
        "linger.ms=5",
    ] {
        build(flags(&["--kafka", allowed]).or(valid())).unwrap();
    }
    for broken in ["nothing", "a b=c", "=x"] {
        let error = only_error(build(flags(&["--kafka", broken]).or(valid())));
        assert!(!error.contains(broken), "{error}");
    }
}

#[test]
fn topics_are_created_by_our_setting_or_by_librdkafkas_which_means_the_same() {
    let given = |setting: Option<&str>, property: Option<&str>| {
        let property = property.map(|value| format!("allow.auto.create.topics={value}"));
        build(Settings {
            auto_create_topics: setting.map(str::to_owned),
            kafka: property.into_iter().collect(),
            ..valid()
        })
    };
    for (setting, property, creates) in [
        (None, None, false),
        (Some("true"), None, true),
        (Some("false"), None, false),
        (None, Some("true"), true),
        (None, Some("1"), true),
        (None, Some("FALSE"), false),
        (Some("true"), Some("true"), true),
        (Some("false"), Some("false"), false),
    ] {
        let config = given(setting, property).unwrap();
        assert_eq!(
            config.auto_creates_topics(),
            creates,
            "{setting:?} {property:?}"
        );
    }
    for (setting, property) in [("true", "false"), ("false", "true")] {
        let errors = given(Some(setting), Some(property)).unwrap_err();
        assert_eq!(
            errors.to_string(),
            "OUTBOX_AUTO_CREATE_TOPICS contradicts allow.auto.create.topics, which means \
             the same; remove the property"
        );
    }
    let errors = given(Some("yes"), None).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "OUTBOX_AUTO_CREATE_TOPICS `yes` is not one of its choices; write true or false"
    );
}

#[test]
fn a_codec_other_than_none_compresses() {
    for (name, value, compresses) in [
        ("compression.codec", "zstd", true),
        ("compression.type", "lz4", true),
        ("compression.codec", "none", false),
        ("linger.ms", "5", false),
    ] {
        let config = build(Settings {
            kafka: vec![format!("{name}={value}")],
            ..valid()
        });
        assert_eq!(config.unwrap().compresses(), compresses, "{name}={value}");
    }
}
