//! What a registry wants to know of who asks: `WWW-Authenticate`.

/// One challenge that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 7617.
    Basic,
    /// A token of `realm` (the distribution project's token specification).
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The best challenge of a header's values (RFC 9110, section 11.6.1): a token
/// rather than a password; `None` where there is none that we know.
pub fn best<'a>(values: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for (scheme, parameters) in values.flat_map(challenges) {
        let find = |name: &str| {
            parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone())
        };
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = find("realm")
        {
            let (service, scope) = (find("service"), find("scope"));
            return Some(Challenge::Bearer { realm, service, scope });
        }
        if scheme.eq_ignore_ascii_case("basic") {
            basic = Some(Challenge::Basic);
        }
    }
    basic
}

type Parameters = Vec<(String, String)>;

/// Schemes with their parameters. A list of challenges has the same comma as
/// a challenge's list of parameters: a word without `=` begins the next one.
fn challenges(value: &str) -> Vec<(String, Parameters)> {
    let mut found: Vec<(String, Parameters)> = Vec::new();
    let mut rest = value;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return found;
        }
        rest = after.trim_start_matches([' ', '\t']);
        let Some(text) = rest.strip_prefix('=') else {
            found.push((word.to_owned(), Parameters::new()));
            continue;
        };
        let (text, after) = parameter(text.trim_start_matches([' ', '\t']));
        if let Some((_, parameters)) = found.last_mut() {
            parameters.push((word.to_owned(), text));
        }
        rest = after;
    }
}

/// A token or a quoted string (RFC 9110, section 5.6.4), and what follows.
fn parameter(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::{Challenge, best};

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let own = |t: Option<&str>| t.map(str::to_owned);
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: own(service),
            scope: own(scope),
        })
    }

    #[test]
    fn a_token_is_preferred_and_commas_in_quotes_are_text() {
        let table: [(&[&str], Option<Challenge>); 9] = [
            (&["Basic realm=\"r\""], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t\",service=\"s\",scope=\"repository:x:pull,push\""],
                bearer("https://a/t", Some("s"), Some("repository:x:pull,push")),
            ),
            (&["Basic realm=r, bearer Realm = \"https://a\""], bearer("https://a", None, None)),
            (&["Basic", "Bearer realm=https://b"], bearer("https://b", None, None)),
            (&["Bearer realm=\"a\\\"b\""], bearer("a\"b", None, None)),
            (&["Bearer service=\"s\""], None),
            (&["Negotiate"], None),
            (&["Bearer realm=\"unended"], bearer("unended", None, None)),
            (&[""], None),
        ];
        for (values, expected) in table {
            assert_eq!(best(values.iter().copied()), expected, "{values:?}");
        }
    }
}
