-- Who minted the token of a request, beside who is behind it: an exchange proves a person for whom the token acts, who may be another
-- than whoever minted the one that was shown. A release that does not know the column would not write it, and so let them answer.
ALTER TABLE approvals ADD COLUMN minter TEXT;
ALTER TABLE proposals ADD COLUMN minter TEXT;
UPDATE approvals SET minter = (SELECT t.minter FROM agent_tokens t WHERE t.site = approvals.site AND t.id = approvals.token);
UPDATE proposals SET minter = (SELECT t.minter FROM agent_tokens t WHERE t.site = proposals.site AND t.id = proposals.token);
