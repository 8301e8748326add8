"""Amazon Bedrock's Converse and InvokeModel APIs."""
