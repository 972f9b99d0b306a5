//! The API's configuration: read whole, shown without its secrets, refused where it contradicts itself.

use wm_analyzer::api::{Api, Config, PostMode};

use crate::{DEFAULTS, config, three_versions};

#[test]
fn the_defaults_are_read_and_configure_no_api() {
    let defaults: Config = toml::from_str(DEFAULTS).unwrap();
    assert_eq!((defaults.url.as_ref(), defaults.post), (None, PostMode::Post));
    assert!(Api::new(&defaults).unwrap().is_none());
}

#[test]
fn an_unknown_or_a_missing_key_is_refused() {
    let unknown = format!("{DEFAULTS}\npasword = \"x\"");
    assert!(toml::from_str::<Config>(&unknown).unwrap_err().to_string().contains("pasword"));
    for line in DEFAULTS.lines().filter(|line| !line.is_empty()) {
        let error = toml::from_str::<Config>(&DEFAULTS.replace(line, "")).unwrap_err().to_string();
        assert!(error.contains(line.split(' ').next().unwrap()), "{line}: {error}");
    }
}

#[test]
fn a_shown_configuration_says_that_there_is_a_secret_and_not_which() {
    let with = DEFAULTS
        .replace("password = \"\"", "password = \"hunter2\"")
        .replace("token = \"\"", "token = \"hunter2\"");
    let config: Config = toml::from_str(&with).unwrap();
    let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(shown.contains("password = \"***\""), "{shown}");
}

#[tokio::test]
async fn contradictory_credentials_are_refused_by_name() {
    let fake = three_versions().await;
    let some = || "some thing".to_owned();
    for (email, password, token, needle) in [
        (some(), String::new(), String::new(), "api.email is set and api.password is not"),
        (String::new(), some(), String::new(), "api.password is set and api.email is not"),
        (some(), some(), some(), "api.token is set and so are"),
        (some(), String::new(), some(), "api.token is set and so are"),
        (String::new(), String::new(), "two\nlines".to_owned(), "api.token is not a valid header value"),
    ] {
        let config = Config { email, password: password.into(), token: token.into(), ..config(&fake) };
        let refused = Api::new(&config).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(refused.contains(needle), "{refused:?} does not say {needle:?}");
    }
}

#[test]
fn an_address_that_cannot_be_called_is_refused() {
    for address in ["ftp://db.test", "db.test", "https://u:p@db.test", "https://db.test?x", "https://"] {
        let with = DEFAULTS.replace("url = \"\"", &format!("url = {address:?}"));
        let refused = toml::from_str::<Config>(&with).err().unwrap().to_string();
        assert!(refused.contains("write an http or https address"), "{address}: {refused}");
    }
}
