//! The statements of a dump, read as they stream by.
//!
//! A statement that brings no rows into a table that matters is passed over without keeping anything of it, but its
//! texts, quoted names and comments are understood, so that nothing inside them is taken for a statement.

use std::io::Read;

use memchr::memchr2;

use super::{
    Error,
    input::Input,
    tables::{Insert, Mode, Tables},
};

/// The longest name, number or delimiter (MySQL's names end at 64 characters of up to 4 bytes).
const MAX_WORD: usize = 256;
/// The most columns of a table (MySQL's limit).
const MAX_COLUMNS: usize = 4096;

/// Where reading stands in a dump.
pub(super) struct Statements<R> {
    input: Input<R>,
    /// Inside `/*! ... */`, whose content a server runs.
    executed: bool,
    delimiter: Vec<u8>,
    /// The first and the last line that mysqldump writes were seen.
    headed: bool,
    completed: bool,
    /// Tables are locked: mysqldump unlocks each when it is done with its rows.
    locked: bool,
    any: bool,
}

impl<R: Read> Statements<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            input: Input::new(source),
            executed: false,
            delimiter: b";".to_vec(),
            headed: false,
            completed: false,
            locked: false,
            any: false,
        }
    }

    /// Reads all statements.
    pub(super) fn read(mut self, tables: &mut Tables) -> Result<(), Error> {
        if self.input.starts_with(b"\xef\xbb\xbf")? {
            self.input.pass(3);
        }
        loop {
            self.space()?;
            if self.input.peek()?.is_none() {
                break;
            }
            if self.delimited()? {
                continue;
            }
            self.statement(tables)?;
        }
        // A dump that says where it begins says where it ends, as a whole and for each table.
        if self.executed || self.locked || (self.headed && !self.completed) {
            return Err(Error::Ended);
        }
        if self.any { Ok(()) } else { Err(Error::NoSql) }
    }

    fn fault(&mut self, what: &'static str) -> Error {
        let offset = self.input.offset();
        self.refused(Error::Syntax { offset, what })
    }

    /// What is wrong here; which at the end of a dump is that it ends.
    fn refused(&mut self, error: Error) -> Error {
        match self.input.peek() {
            Ok(Some(_)) => error,
            Ok(None) => Error::Ended,
            Err(error) => error,
        }
    }

    fn statement(&mut self, tables: &mut Tables) -> Result<(), Error> {
        let word = self.word()?;
        let known = ["INSERT", "REPLACE", "CREATE", "DROP", "TRUNCATE", "SET", "DELIMITER", "USE", "LOCK", "UNLOCK", "ALTER"];
        self.any |= known.contains(&&*word);
        match &*word {
            "DELIMITER" => return self.delimiter(),
            "INSERT" | "REPLACE" => return self.insert(tables, &word),
            "CREATE" => {
                self.space()?;
                if self.word()? == "TABLE" {
                    return self.create(tables);
                }
            }
            "DROP" | "TRUNCATE" => {
                self.space()?;
                let next = self.word()?;
                if next == "TABLE" || (word == "TRUNCATE" && next.is_empty()) {
                    self.space()?;
                    if let Some(table) = self.table()? {
                        tables.emptied(&table);
                    }
                }
            }
            "LOCK" => self.locked = true,
            "UNLOCK" => self.locked = false,
            "USE" => {
                self.space()?;
                if let Some(name) = self.name()? {
                    tables.used(name)?;
                }
            }
            "SET" => {
                self.space()?;
                if self.word()? == "NAMES" {
                    self.space()?;
                    let name = self.name()?.unwrap_or_default().to_ascii_lowercase();
                    if !["utf8mb4", "utf8mb3", "utf8", "binary", "ascii", "default"].contains(&&*name) {
                        return Err(Error::Charset { name });
                    }
                }
            }
            // A byte that begins no statement; what follows is passed over up to the delimiter.
            "" if !matches!(self.input.peek()?, Some(b'\'' | b'"' | b'`')) => self.input.pass(1),
            _ => {}
        }
        self.rest()
    }

    /// Takes the delimiter, if it stands here.
    fn delimited(&mut self) -> Result<bool, Error> {
        let delimiter = std::mem::take(&mut self.delimiter);
        let found = self.input.starts_with(&delimiter)?;
        if found {
            self.input.pass(delimiter.len());
        }
        self.delimiter = delimiter;
        Ok(found)
    }

    /// `DELIMITER ;;`: the client's own statement, which ends with its line.
    fn delimiter(&mut self) -> Result<(), Error> {
        let mut delimiter = Vec::new();
        while let Some(byte) = self.input.peek()?.filter(|byte| *byte != b'\n') {
            self.input.pass(1);
            delimiter.push(byte);
            if delimiter.len() > MAX_WORD {
                return Err(self.fault("a delimiter is too long"));
            }
        }
        let delimiter = delimiter.trim_ascii();
        if delimiter.is_empty() {
            return Err(self.fault("a delimiter is missing"));
        }
        self.delimiter = delimiter.to_vec();
        Ok(())
    }

    /// Passes white space and comments.
    fn space(&mut self) -> Result<(), Error> {
        loop {
            let seen = self.input.see(3)?;
            match seen {
                [byte, ..] if byte.is_ascii_whitespace() || *byte == 0x0b => self.input.pass(1),
                [b'#', ..] => self.input.pass_line()?,
                [b'-', b'-'] => self.input.pass_line()?,
                [b'-', b'-', byte, ..] if byte.is_ascii_whitespace() => {
                    let line = self.input.see(32)?;
                    let says = |text: &[u8]| line.get(3..).is_some_and(|line| line.starts_with(text));
                    self.headed |= says(b"MySQL dump") || says(b"MariaDB dump");
                    self.completed |= says(b"Dump completed");
                    self.input.pass_line()?;
                }
                [b'/', b'*', ..] => self.comment()?,
                [b'*', b'/', ..] if self.executed => {
                    self.executed = false;
                    self.input.pass(2);
                }
                _ => return Ok(()),
            }
        }
    }

    /// A comment, or the begin of one that a server runs: `/*!` or MariaDB's `/*M!`, with the oldest version that does.
    /// No server is as new as 99.99.99; MariaDB's mark against other clients has that version.
    fn comment(&mut self) -> Result<(), Error> {
        let seen = self.input.see(12)?;
        let mark = match seen {
            [_, _, b'!', ..] => 3,
            [_, _, b'M', b'!', ..] => 4,
            _ => 0,
        };
        let digits = seen[mark..].iter().take(6).take_while(|byte| byte.is_ascii_digit()).count();
        if mark == 0 || seen[mark..].starts_with(b"999999") || self.executed {
            self.input.pass(2);
            return self.input.pass_comment();
        }
        self.executed = true;
        self.input.pass(mark + digits);
        Ok(())
    }

    /// A bare word in capitals; empty where none stands.
    fn word(&mut self) -> Result<String, Error> {
        let mut word = String::new();
        while let Some(byte) =
            self.input.peek()?.filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'@'))
        {
            self.input.pass(1);
            word.push(char::from(byte.to_ascii_uppercase()));
            if word.len() > MAX_WORD {
                return Err(self.fault("a word is too long"));
            }
        }
        Ok(word)
    }

    /// A name, quoted or bare.
    fn name(&mut self) -> Result<Option<String>, Error> {
        let quote = match self.input.peek()? {
            Some(quote @ (b'`' | b'"' | b'\'')) => quote,
            Some(byte) if byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'_' | b'$') => 0,
            _ => return Ok(None),
        };
        let mut name = Vec::new();
        self.input.pass(usize::from(quote != 0));
        loop {
            let next = self.input.peek()?;
            if quote == 0 {
                match next {
                    Some(byte) if byte.is_ascii_alphanumeric() || byte >= 0x80 || matches!(byte, b'_' | b'$') => name.push(byte),
                    _ => break,
                }
                self.input.pass(1);
            } else {
                let byte = self.input.take()?;
                if byte == quote {
                    if self.input.peek()? != Some(quote) {
                        break;
                    }
                    self.input.pass(1);
                }
                name.push(byte);
            }
            if name.len() > MAX_WORD {
                return Err(self.fault("a name is too long"));
            }
        }
        match String::from_utf8(name) {
            Ok(name) => Ok(Some(name)),
            Err(_) => Err(self.fault("a name is not UTF-8")),
        }
    }

    /// The name of a table, without its database, after words such as `IF EXISTS`.
    fn table(&mut self) -> Result<Option<String>, Error> {
        let mut table = self.name()?;
        while let Some(name) = &table {
            self.space()?;
            if self.input.peek()? == Some(b'.') {
                self.input.pass(1);
                self.space()?;
            } else if !["IF", "NOT", "EXISTS"].contains(&&*name.to_ascii_uppercase()) {
                break;
            }
            table = self.name()?;
        }
        Ok(table)
    }

    /// Passes everything up to and with the delimiter.
    fn rest(&mut self) -> Result<(), Error> {
        self.until(&[])?;
        self.delimited().map(|_| ())
    }

    /// Passes texts, quoted names, comments and whatever else, up to one of these bytes or the delimiter.
    fn until(&mut self, stops: &[u8]) -> Result<(), Error> {
        let delimiter = self.delimiter.clone();
        loop {
            let seen = self.input.see(delimiter.len().max(3))?;
            let Some(&byte) = seen.first() else { return Err(Error::Ended) };
            match byte {
                byte if stops.contains(&byte) || seen.starts_with(&delimiter) => return Ok(()),
                b'\'' | b'"' => {
                    self.input.pass(1);
                    self.text(byte, None)?;
                }
                b'`' => {
                    self.input.pass(1);
                    while self.input.take()? != b'`' {}
                }
                b'#' | b'-' | b'/' | b'*' => {
                    let before = self.input.offset();
                    self.space()?;
                    if self.input.offset() == before {
                        self.input.pass(1);
                    }
                }
                _ => {
                    let dull = |byte: &u8| {
                        *byte != delimiter[0]
                            && !matches!(byte, b'\'' | b'"' | b'`' | b'#' | b'-' | b'/' | b'*')
                            && !stops.contains(byte)
                    };
                    let length = seen.iter().take_while(|byte| dull(byte)).count();
                    self.input.pass(length.max(1));
                }
            }
        }
    }

    /// A text behind its opening quote, up to and with the closing one. What is kept may not grow over the limit.
    fn text(&mut self, quote: u8, mut keep: Option<(&mut Vec<u8>, usize)>) -> Result<(), Error> {
        let mut put = |bytes: &[u8]| match &mut keep {
            Some((text, most)) if text.len() + bytes.len() > *most => Err(Error::TooMuch),
            Some((text, _)) => {
                text.extend_from_slice(bytes);
                Ok(())
            }
            None => Ok(()),
        };
        loop {
            let seen = self.input.see(1)?;
            if seen.is_empty() {
                return Err(Error::Ended);
            }
            let length = memchr2(quote, b'\\', seen).unwrap_or(seen.len());
            put(&seen[..length])?;
            let special = seen.get(length).copied();
            self.input.pass(length);
            match special {
                None => {}
                Some(b'\\') => {
                    self.input.pass(1);
                    match self.input.take()? {
                        b'0' => put(b"\0")?,
                        b'b' => put(b"\x08")?,
                        b'n' => put(b"\n")?,
                        b'r' => put(b"\r")?,
                        b't' => put(b"\t")?,
                        b'Z' => put(b"\x1a")?,
                        // In a text these two stay as they are; they matter to LIKE.
                        byte @ (b'%' | b'_') => put(&[b'\\', byte])?,
                        byte => put(&[byte])?,
                    }
                }
                Some(_) => {
                    self.input.pass(1);
                    if self.input.peek()? != Some(quote) {
                        return Ok(());
                    }
                    self.input.pass(1);
                    put(&[quote])?;
                }
            }
        }
    }

    /// `CREATE TABLE`, behind these words: the names of the columns.
    fn create(&mut self, tables: &mut Tables) -> Result<(), Error> {
        self.space()?;
        let table = self.table()?.unwrap_or_default();
        self.space()?;
        if !Tables::matters(&table) || self.input.peek()? != Some(b'(') {
            return self.rest();
        }
        self.input.pass(1);
        let mut columns = Vec::new();
        loop {
            self.space()?;
            let quoted = matches!(self.input.peek()?, Some(b'`' | b'"'));
            if let Some(name) = self.name()? {
                let keyword =
                    ["PRIMARY", "UNIQUE", "KEY", "INDEX", "CONSTRAINT", "FULLTEXT", "SPATIAL", "FOREIGN", "CHECK", "PERIOD"];
                if quoted || !keyword.contains(&&*name.to_ascii_uppercase()) {
                    columns.push(name);
                }
            }
            if columns.len() > MAX_COLUMNS {
                return Err(self.fault("a table has too many columns"));
            }
            if self.part()? == b')' {
                break;
            }
        }
        tables.created(&table, columns)?;
        self.rest()
    }

    /// Passes the rest of a part of a list, and takes the comma or bracket behind it.
    fn part(&mut self) -> Result<u8, Error> {
        let mut depth = 0usize;
        loop {
            self.until(b"(),")?;
            match self.input.take()? {
                b'(' => depth += 1,
                b')' if depth == 0 => return Ok(b')'),
                b')' => depth -= 1,
                b',' if depth == 0 => return Ok(b','),
                b',' => {}
                // A delimiter inside of brackets.
                _ => return Err(self.fault("a bracket is not closed")),
            }
        }
    }

    /// `INSERT` or `REPLACE`, behind this word.
    fn insert(&mut self, tables: &mut Tables, word: &str) -> Result<(), Error> {
        let mut mode = if word == "REPLACE" { Mode::Replace } else { Mode::Insert };
        let mut table = None;
        for _ in 0..4 {
            self.space()?;
            table = self.table()?;
            match table.as_deref().map(str::to_ascii_uppercase).as_deref() {
                Some("IGNORE") => mode = Mode::Ignore,
                Some("INTO" | "LOW_PRIORITY" | "HIGH_PRIORITY" | "DELAYED") => {}
                _ => break,
            }
        }
        let table = table.unwrap_or_default();
        if !Tables::matters(&table) {
            return self.rest();
        }
        self.space()?;
        let mut columns = None;
        if self.input.peek()? == Some(b'(') {
            self.input.pass(1);
            columns = Some(self.columns()?);
            self.space()?;
        }
        let unsupported = Error::Unsupported { table: table.clone(), offset: self.input.offset() };
        if !["VALUES", "VALUE"].contains(&&*self.word()?) {
            return Err(self.refused(unsupported));
        }
        let Some(mut insert) = tables.insert(&table, columns, mode)? else { return self.rest() };
        loop {
            self.space()?;
            if self.input.take()? != b'(' {
                return Err(self.fault("a row does not begin with a bracket"));
            }
            self.row(tables, &mut insert)?;
            self.space()?;
            if self.input.peek()? == Some(b',') {
                self.input.pass(1);
                continue;
            }
            if self.delimited()? {
                return Ok(());
            }
            return match self.word()?.as_str() {
                // What to do with a row that is there already is not carried out: a dump has none.
                "ON" | "AS" => self.rest(),
                _ => Err(self.fault("a row is followed by something else")),
            };
        }
    }

    fn columns(&mut self) -> Result<Vec<String>, Error> {
        let mut columns = Vec::new();
        loop {
            self.space()?;
            let Some(name) = self.name()? else { return Err(self.fault("the name of a column is missing")) };
            columns.push(name);
            self.space()?;
            match self.input.take()? {
                b',' if columns.len() < MAX_COLUMNS => {}
                b')' => return Ok(columns),
                _ => return Err(self.fault("a list of columns is malformed")),
            }
        }
    }

    /// A row behind its opening bracket, up to and with the closing one.
    fn row(&mut self, tables: &mut Tables, insert: &mut Insert) -> Result<(), Error> {
        let offset = self.input.offset();
        let mut kept = 0;
        let mut width = 0;
        loop {
            self.space()?;
            match insert.slot(width) {
                Some(slot) => {
                    let most = tables.left().saturating_sub(kept);
                    let value = self.value(insert.table(), most)?;
                    kept += value.as_ref().map_or(0, Vec::len);
                    insert.put(slot, value);
                    self.space()?;
                    match self.input.take()? {
                        b',' => {}
                        b')' => break,
                        _ => return Err(Error::Unsupported { table: insert.table().to_owned(), offset }),
                    }
                }
                None => {
                    if self.part()? == b')' {
                        break;
                    }
                }
            }
            width += 1;
        }
        if width + 1 != insert.width() {
            return Err(Error::Syntax { offset, what: "a row has another number of values than there are columns" });
        }
        tables.row(insert, offset)
    }

    /// A value that is kept, as text; none for `NULL`.
    fn value(&mut self, table: &str, most: usize) -> Result<Option<Vec<u8>>, Error> {
        let unsupported = Error::Unsupported { table: table.to_owned(), offset: self.input.offset() };
        let mut value = Vec::new();
        match self.input.peek()?.ok_or(Error::Ended)? {
            quote @ (b'\'' | b'"') => {
                self.input.pass(1);
                self.text(quote, Some((&mut value, most)))?;
            }
            b'0' if matches!(self.input.see(2)?, [_, b'x', ..]) => {
                self.input.pass(2);
                self.hex(&mut value, most)?;
            }
            b'0'..=b'9' | b'-' | b'+' | b'.' => {
                while let Some(byte) = self.input.peek()?.filter(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(byte)) {
                    self.input.pass(1);
                    value.push(byte);
                    if value.len() > MAX_WORD {
                        return Err(self.fault("a number is too long"));
                    }
                }
            }
            _ => match self.word()?.as_str() {
                "NULL" => return Ok(None),
                "TRUE" => value.push(b'1'),
                "FALSE" => value.push(b'0'),
                "X" if self.input.peek()? == Some(b'\'') => {
                    self.input.pass(1);
                    self.hex(&mut value, most)?;
                    if self.input.take()? != b'\'' {
                        return Err(unsupported);
                    }
                }
                // `_binary 'text'`: the bytes are the same whatever their charset is called.
                charset if charset.starts_with('_') || charset == "N" => {
                    self.space()?;
                    if matches!(self.input.peek()?, Some(b'\'' | b'"' | b'0' | b'x' | b'X')) {
                        return self.value(table, most);
                    }
                    return Err(self.refused(unsupported));
                }
                _ => return Err(self.refused(unsupported)),
            },
        }
        Ok(Some(value))
    }

    /// Pairs of hex digits.
    fn hex(&mut self, value: &mut Vec<u8>, most: usize) -> Result<(), Error> {
        let mut high = None;
        while let Some(digit) = self.input.peek()?.and_then(|byte| char::from(byte).to_digit(16)) {
            self.input.pass(1);
            match high.take() {
                None => high = Some(digit),
                Some(high) if value.len() < most => value.extend(u8::try_from(high * 16 + digit)),
                Some(_) => return Err(Error::TooMuch),
            }
        }
        if high.is_some() { Err(self.fault("a hex number has an odd number of digits")) } else { Ok(()) }
    }
}
