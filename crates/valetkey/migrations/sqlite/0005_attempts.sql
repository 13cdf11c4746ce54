-- An account that is made of entered values may be tried several times with one link: a password can be mistyped. How often
-- it was, and until when the attempt that is under way holds the form; null while none is. The defaults let an older
-- release go on inserting rows.
ALTER TABLE connect_sessions ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE connect_sessions ADD COLUMN trying_until INTEGER;
