-- Who is behind a request: its person, or the one for whom or by whom its token was minted. It stands beside the request, for an
-- issued token is deleted while a request may still wait. A release that does not know the column would not write it, and so let
-- people answer themselves.
ALTER TABLE approvals ADD COLUMN behind TEXT;
ALTER TABLE proposals ADD COLUMN behind TEXT;
UPDATE approvals SET behind = COALESCE(person, (SELECT COALESCE(t.person, t.minter) FROM agent_tokens t
                                                WHERE t.site = approvals.site AND t.id = approvals.token));
UPDATE proposals SET behind = COALESCE(person, (SELECT COALESCE(t.person, t.minter) FROM agent_tokens t
                                                WHERE t.site = proposals.site AND t.id = proposals.token));
