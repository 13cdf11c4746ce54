-- What the maker of a connect session gives to be carried along is sealed from now on, in its session. It stood in the clear
-- before, and is erased here. So a flow that is under way meanwhile ends without its payload: its platform is told the session's
-- id and state as ever, and no payload. Links live for ten minutes, flows for fifteen.
--
-- The columns stay for an older release that still runs beside this one: what that one is given it writes into them, and it dies
-- with its session after a day. Nothing of this release reads or writes them.
ALTER TABLE connect_sessions ADD COLUMN sealed BLOB;
UPDATE connect_sessions SET payload = NULL WHERE payload IS NOT NULL;
UPDATE flows SET payload = NULL WHERE payload IS NOT NULL;
